"""Two seasons in a row with four real devices: the loop closes, and what was played is not played again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.flows.shrunk import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def play(folder: Path, last: int) -> str:
    changes = [word for key, value in SMALL.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    words = ["--first", "2009", "--last", str(last), "--devices", "4", "--fields-per-device", "2", *changes]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-m", "flows.play", "--folder", str(folder / "play"), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_two_seasons_close_the_loop(tmp_path: Path) -> None:
    play(tmp_path, 2010)
    history = json.loads((tmp_path / "play" / "history.json").read_text())
    assert [season["as_of"] for season in history] == [2009, 2010]
    for season in history:
        assert season["rollout"]["status"] == "completed"
        assert season["rollout"]["running"] == [season["release"]["counter"]] * 4
        assert {each["crop"] for each in season["played"]} == {"maize", "wheat"}
        assert all(each["advised"] > 100 for each in season["played"])
        sent = season["sync"]["bytes"]["record"]
        assert 0 < sent <= 0.1 * sum(each["everything_bytes"] for each in season["played"])
        worth = season["sync"]["worth"]
        assert worth["bytes"]["sent"] == sent
        assert all(0 < loss < 20 for loss in worth["loss_t_ha"].values())
    first, second = history
    assert first["sync"]["version"] != second["sync"]["version"]
    assert second["sync"]["rows"] > first["sync"]["rows"]
    assert second["release"]["patch_bytes"] < 0.35 * second["release"]["bytes"]
    project = tmp_path / "play" / "project"
    log = subprocess.run(["git", "-C", project, "log", "--format=%s"], capture_output=True, text=True, check=True)
    assert log.stdout.splitlines()[:2] == ["Field data of season 2010", "Season 2010"]
    said = play(tmp_path, 2010)
    assert "retrain" not in said
    page = Path(next(line.split("page: ")[1] for line in said.splitlines() if "page: " in line))
    assert page.stat().st_size < 3_000_000
    assert "against that with a random draw of as many bytes" in page.read_text()
