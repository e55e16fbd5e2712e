"""The seasonal flow on a small project: three doors to the same stages, and what Prefect and MLflow keep of a run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.toy import REPOSITORY, dvc, make_toy, python_environment, set_stage

pytestmark = pytest.mark.usefixtures("prefect")

ORDER = ("weather", "train@irrigation", "train@nitrogen", "train@yield", "bundle")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_toy(tmp_path / "toy")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def _retrain(**parameters: Any) -> Any:
    from flows.seasonal_retrain import seasonal_retrain

    return seasonal_retrain(**parameters)


def _task_runs() -> list[tuple[str, str]]:
    """Names and states of the last flow run's tasks, as the Prefect server keeps them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

    async def read() -> list[tuple[str, str]]:
        async with get_client() as client:
            (last,) = await client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
            runs = await client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[last.id])), sort=TaskRunSort.END_TIME_DESC
            )
            return [(run.name, run.state_name or "") for run in reversed(runs)]

    return asyncio.run(read())


def _artifact(key: str) -> Any:
    from prefect.artifacts import Artifact

    return asyncio.run(Artifact.aget(key))


def test_after_a_flow_run_dvc_status_is_clean_and_a_second_run_executes_no_stage(toy: Path) -> None:
    first = _retrain()
    assert first.named("ran") == ORDER
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    assert first.bundle == toy / "data" / "bundle" / "headland-2009.tar"
    assert (first.registered.version, first.registered.is_new) == (1, True)
    second = _retrain()
    assert (second.named("ran"), second.named("unchanged")) == ((), ORDER)
    assert (second.registered.version, second.registered.is_new) == (1, False)


def test_after_dvc_repro_the_flow_executes_no_stage(toy: Path) -> None:
    assert dvc(toy, "repro").returncode == 0
    lock = (toy / "dvc.lock").read_bytes()
    summary = _retrain(to_registry=False)
    assert summary.named("ran") == ()
    assert summary.registered is None
    assert (toy / "dvc.lock").read_bytes() == lock


def test_both_doors_write_the_same_lock(toy: Path, tmp_path: Path) -> None:
    other = make_toy(tmp_path / "other")
    assert dvc(other, "repro").returncode == 0
    _retrain(to_registry=False)
    assert yaml.safe_load((toy / "dvc.lock").read_text()) == yaml.safe_load((other / "dvc.lock").read_text())


def test_prefect_keeps_a_task_run_per_executed_stage_its_lines_and_a_table(toy: Path) -> None:
    _retrain(to_registry=False)
    set_stage(toy, "bundle.py", "# the same, said differently\n" + (toy / "bundle.py").read_text())
    summary = _retrain(force=("train@yield",))
    assert summary.named("ran") == ("train@yield", "bundle")
    runs = _task_runs()
    assert [(name, state) for name, state in runs if name in ORDER] == [
        ("train@yield", "Completed"),
        ("bundle", "Completed"),
    ]
    table = _artifact("seasonal-retrain").data
    assert "| train@yield | ran |" in table
    assert "| weather | unchanged |" in table
    assert _artifact("stages").data == 100.0


def test_a_failed_stage_stops_the_flow_and_the_next_run_goes_on_there(toy: Path) -> None:
    from tasks.stages import StageFailedError

    good = (toy / "train.py").read_text()
    set_stage(toy, "train.py", good + "\nif model == 'nitrogen':\n    sys.exit(4)\n")
    with pytest.raises(StageFailedError) as failure:
        _retrain()
    assert (failure.value.stage, failure.value.stage_exit) == ("train@nitrogen", 4)
    runs = dict(_task_runs())
    assert (runs["weather"], runs["train@irrigation"], runs["train@nitrogen"]) == ("Completed", "Completed", "Failed")
    assert "train@yield" not in runs
    assert "| train@nitrogen | failed |" in _artifact("seasonal-retrain").data
    set_stage(toy, "train.py", good)
    assert _retrain().named("unchanged") == ("weather",)


def test_passing_trouble_is_tried_again_and_a_deterministic_failure_is_not() -> None:
    from prefect.states import Failed

    from flows.seasonal_retrain import not_the_bundle, passing_trouble
    from tasks.registry.register import RegistryError, UnfitBundleError
    from tasks.running import AlreadyRunningError, OrphanAliveError
    from tasks.stages import StageFailedError

    def again(judge: Any, error: Exception) -> bool:
        return bool(judge(None, None, Failed(data=error)))

    assert again(passing_trouble, AlreadyRunningError("x"))
    assert again(passing_trouble, BlockingIOError(11, "x"))
    assert not again(passing_trouble, OrphanAliveError("x"))
    assert not again(passing_trouble, StageFailedError("x"))
    assert again(not_the_bundle, RegistryError("x"))
    assert not again(not_the_bundle, UnfitBundleError("x"))


def test_a_lock_that_goes_away_is_waited_for(toy: Path) -> None:
    """DVC is held by hand while the first attempt runs; the retry succeeds."""
    import zc.lockfile

    from flows.seasonal_retrain import execute
    from tasks.running import exclusive_run

    lines: list[str] = []

    class Telling:
        def line(self, text: str) -> None:
            lines.append(text)
            held.close()

    (toy / ".dvc" / "tmp").mkdir(exist_ok=True)
    held = zc.lockfile.LockFile(str(toy / ".dvc" / "tmp" / "lock"))
    with exclusive_run(toy):
        assert execute(toy, "weather", Telling(), False, 60.0) > 0
    assert "reading the rain" in lines


def test_the_deployment_names_the_flow_and_its_parameters() -> None:
    from prefect.server.schemas.schedules import CronSchedule

    from flows.seasonal_retrain import YEARLY, seasonal_retrain

    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    (deployment,) = (each for each in deployments if each["name"] == "seasonal")
    assert deployment["entrypoint"] == "flows/seasonal_retrain.py:seasonal_retrain"
    seasonal_retrain.validate_parameters(deployment["parameters"])
    assert set(deployment["parameters"]) == set(seasonal_retrain.parameters.properties)
    (schedule,) = deployment["schedules"]
    assert schedule["cron"] == YEARLY
    first, second = asyncio.run(CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).get_dates(2))
    assert (first.day, first.month, second.year - first.year) == (1, 2, 1)


def test_a_parameter_of_the_wrong_type_is_refused(toy: Path) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError):
        _retrain(stage_timeout_h=-1)
    assert not (toy / "dvc.lock").exists()


@pytest.mark.slow
@pytest.mark.skipif(not (REPOSITORY / "dvc.lock").exists(), reason="the real project has not been built here")
def test_the_real_project_is_clean_through_every_door() -> None:
    """Only asks, never runs a stage: skipped unless DVC itself finds the project up to date."""
    if json.loads(dvc(REPOSITORY, "status", "--json").stdout or "null") != {}:
        pytest.skip("the real project has changed stages; build it first")
    done = subprocess.run(
        [sys.executable, "-m", "tasks.cli", "status", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, **python_environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["changed"] == {}
