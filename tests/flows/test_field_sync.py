"""Records from the uplink's folder to a version of data that the pipeline's stages learn from, and only once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from headland_edge.messages import Message
from headland_edge.uplink import FolderUplink

from tasks.field.version import kept_version, read_card, version_of
from tasks.fleet.folder import FleetFolder
from tasks.running import AlreadyRunningError, exclusive_run
from tests.field.excerpts import record
from tests.toy import REPOSITORY, dvc, make_toy, python_environment

pytestmark = pytest.mark.usefixtures("prefect")

LEARN = """
  learn:
    cmd: python learn.py
    deps: [learn.py, data/field]
    outs: [data/learned.txt]
"""
LEARNER = """
from pathlib import Path
files = sorted(Path("data/field/records").rglob("*.parquet"))
Path("data/learned.txt").write_text(" ".join(path.stem for path in files))
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a stage that learns from the field's data, in the current folder."""
    folder = make_toy(tmp_path / "toy")
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text() + LEARN)
    (folder / "learn.py").write_text(LEARNER)
    (folder / "data" / "field").mkdir(parents=True)
    (folder / "data" / "field" / "README.md").write_text("What the field sent.\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def sync(**parameters: Any) -> Any:
    from flows.field_sync import field_sync

    return field_sync(**parameters)


def send(folder: Path, messages: Iterable[Message]) -> None:
    for message in messages:
        FolderUplink(folder, message.device_id).send([message])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_sent_is_a_version_of_data_and_a_second_run_changes_nothing(toy: Path) -> None:
    from prefect.artifacts import Artifact

    fleet, field = FleetFolder.of(toy), toy / "data" / "field"
    send(
        fleet.uplink, [record("field-1"), record("field-2", why=["novel"], crop="wheat"), record("field-3", crop="rye")]
    )
    summary = sync()
    assert (summary.ingested.new, summary.collected.refused, summary.is_new) == (3, {"crop": 1}, True)
    assert summary.version == kept_version(field) == version_of(field)
    card = read_card(field)
    assert (card["md5"], card["rows"], card["refused"]) == (summary.version, 10, {"crop": 1})
    assert card["by_device"] == {"field-1": 5, "field-2": 5}
    assert (card["by_crop"], card["by_season"]) == ({"maize": 5, "wheat": 5}, {"2009": 10})
    assert (card["by_why"], card["random_share"]) == ({"novel": 5, "random": 5}, 0.5)
    assert (card["first_date"], card["last_date"]) == ("2009-04-30", "2009-05-04")
    assert {"what": "refused as records", "value": "1 crop"} in json.loads(
        asyncio.run(Artifact.aget("field-sync")).data
    )
    before = tree(field)
    again = sync()
    assert (again.ingested.new, again.is_new, again.version) == (0, False, summary.version)
    assert tree(field) == before


def test_dvc_names_the_version_as_the_card_does_and_finds_nothing_to_add(toy: Path) -> None:
    send(FleetFolder.of(toy).uplink, [record("field-1"), record("field-2", crop="wheat")])
    version = sync().version
    assert dvc(toy, "status", "data/field/records.dvc").stdout.strip().endswith("up to date.")
    assert dvc(toy, "add", "data/field/records").returncode == 0
    assert kept_version(toy / "data" / "field") == version


def test_stages_that_learn_from_it_run_once_for_each_version_and_all_doors_agree(toy: Path) -> None:
    from flows.seasonal_retrain import seasonal_retrain

    assert "learn" in seasonal_retrain(to_registry=False).named("ran")
    send(FleetFolder.of(toy).uplink, [record("field-1")])
    assert sync().is_new
    assert seasonal_retrain(to_registry=False).named("ran") == ("learn",)
    assert (toy / "data" / "learned.txt").read_text() == "2009"
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    assert not sync().is_new
    assert "Running stage" not in dvc(toy, "repro").stdout
    assert seasonal_retrain(to_registry=False).named("ran") == ()


def test_more_of_what_is_refused_is_no_new_version(toy: Path) -> None:
    fleet = FleetFolder.of(toy)
    send(fleet.uplink, [record("field-1")])
    sync()
    before = tree(toy / "data" / "field")
    send(fleet.uplink, [record("field-1", field="../../x"), record("field-1", sowing_date="2100-01-01")])
    assert sync().collected.refused == {"field": 1, "future": 1}
    assert tree(toy / "data" / "field") == before


def test_with_a_list_of_devices_no_other_is_taken(toy: Path) -> None:
    fleet = FleetFolder.of(toy)
    fleet.root.mkdir(parents=True)
    fleet.devices.write_text('["field-1"]')
    send(fleet.uplink, [record("field-1"), record("stranger")])
    assert sync().ingested.refused == {"unknown-device": 1}
    assert read_card(toy / "data" / "field")["by_device"] == {"field-1": 5}


def test_while_a_run_is_at_work_messages_come_in_and_the_data_wait(toy: Path) -> None:
    fleet = FleetFolder.of(toy)
    send(fleet.uplink, [record("field-1")])
    with exclusive_run(toy), pytest.raises(AlreadyRunningError):
        sync()
    assert fleet.store.exists()
    assert list((fleet.uplink / "outgoing").iterdir()) == []
    assert sync().is_new


def test_without_anything_sent_there_is_no_version(toy: Path) -> None:
    before = tree(toy / "data" / "field")
    summary = sync()
    assert (summary.version, summary.rows, summary.headline()) == ("", 0, "No records yet.")
    assert tree(toy / "data" / "field") == before


@pytest.mark.slow
def test_the_command_takes_a_stick_and_tells_what_came_of_it(toy: Path, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL

    send(tmp_path / "stick", [record("field-1")])
    kept = {name: value for name, value in python_environment().items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tasks.cli", "sync", "--folder", str(tmp_path / "stick"), "--json"],
        cwd=toy,
        env={**kept, "PREFECT_API_URL": PREFECT_API_URL.value()},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert (said["ingested"]["new"], said["rows"], said["is_new"]) == (1, 5, True)
    assert "headland retrain" in done.stderr
    assert FolderUplink(tmp_path / "stick", "field-1").acknowledged() == {record("field-1").id}


def test_the_deployment_names_the_flow() -> None:
    from flows.field_sync import NIGHTLY, field_sync

    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (deployment,) = (each for each in deployments if each["name"] == "daily")
    assert deployment["entrypoint"] == "flows/field_sync.py:field_sync"
    field_sync.validate_parameters(deployment["parameters"])
    assert deployment["schedules"][0]["cron"] == NIGHTLY
