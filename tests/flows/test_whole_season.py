"""The real project, every stage of it, on params so small that it takes minutes: what `make demo` does, and the three
doors: a flow leaves nothing for `dvc repro`, `dvc repro` leaves nothing for a flow, one number runs what depends on it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.fleet.season_project import change_params
from tests.conftest import ROOT
from tests.flows.shrunk import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIN = Path(sys.executable).parent
EDGE = ROOT / ".venv-edge" / "bin" / "headland-edge"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's tracked files in a repository of its own."""
    folder = tmp_path_factory.mktemp("season") / "headland"
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    change_params(folder / "params.yaml", SMALL)
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "small"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def run(project: Path, *words: str) -> str:
    """Run a command of the environment in the project with its own code; returns all it printed."""
    paths = os.pathsep.join([str(project), str(project / "edge"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


HEADLAND = (sys.executable, "-m", "tasks.cli")
DVC = (sys.executable, "-m", "dvc")


def executed(said: str) -> set[str]:
    """Stages that DVC says it ran."""
    return set(re.findall(r"Running stage '([^']+)'", said))


@pytest.fixture(scope="module")
def season(project: Path) -> str:
    """One whole retrain through the flow."""
    return run(project, *HEADLAND, "retrain")


def test_the_flow_runs_every_stage_and_leaves_nothing_for_dvc(project: Path, season: str) -> None:
    stages = {line.split()[0] for line in run(project, *DVC, "stage", "list").splitlines() if line}
    assert executed(season) == stages
    assert json.loads(run(project, *DVC, "status", "--json")) == {}
    assert executed(run(project, *DVC, "repro")) == set()


def test_it_leaves_bundle_report_and_a_registered_candidate(project: Path, season: str) -> None:
    assert (project / "reports/2009/index.html").stat().st_size < 3_000_000
    status = json.loads(run(project, *HEADLAND, "status", "--json"))
    assert status["changed"] == {}
    assert status["registered"]["version"] == 1
    evaluated = json.loads((project / "metrics/evaluate.json").read_text())
    assert set(evaluated["closed_loop"]) == {"maize", "wheat"}


def test_the_bundle_advises(project: Path, season: str) -> None:
    bundle, records = project / "data/bundle/headland-2009.tar", project / "data/evaluation/records_maize.csv"
    advice = json.loads(run(project, *HEADLAND, "advise", "--bundle", str(bundle), "--records", str(records)))
    assert advice["crop"] == "maize"
    assert advice["release"]["as_of"] == 2009


def test_a_device_alone_advises_from_it(project: Path, season: str) -> None:
    if not EDGE.exists():
        pytest.skip("no .venv-edge with the device package alone; make setup creates it")
    bundle, records = project / "data/bundle/headland-2009.tar", project / "data/evaluation/records_wheat.csv"
    words = [EDGE, "advise", "--bundle", bundle, "--records", records]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["crop"] == "wheat"


def test_one_number_runs_what_depends_on_it_and_the_flow_then_nothing(project: Path, season: str) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("minor: 0", "minor: 1"))
    assert executed(run(project, *DVC, "repro")) == {"bundle", "evaluate", "report"}
    again = run(project, *HEADLAND, "retrain")
    assert executed(again) == set()
    assert "nothing had to run" in again.lower()
    assert json.loads(run(project, *HEADLAND, "status", "--json"))["registered"]["version"] == 2


def test_the_same_inputs_give_the_same_bundle(project: Path, season: str) -> None:
    bundle = project / "data/bundle/headland-2009.tar"
    before = bundle.read_bytes()
    run(project, *DVC, "repro", "--force", "--single-item", "train@nitrogen")
    run(project, *DVC, "repro", "--force", "--single-item", "compress@nitrogen")
    run(project, *DVC, "repro", "--force", "--single-item", "bundle")
    assert bundle.read_bytes() == before
