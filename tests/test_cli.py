"""The ``headland`` command as a user meets it: real processes on a small project."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.toy import alive, dvc, make_toy, python_environment, set_sleeper, set_stage, sleeper_pids

HEAVY = {"dvc", "mlflow", "numpy", "onnxruntime", "pandas", "polars", "prefect", "psutil", "torch"}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy(tmp_path / "toy")


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the runs here, so that only the first sets up a database."""
    return tmp_path_factory.mktemp("prefect-home")


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in python_environment().items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, **more}


def _headland(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks.cli", *arguments],
        cwd=folder,
        env=_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    text = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tasks.cli import app\n"
        "for words in ['--help'], ['retrain', '--help'], ['status', '--help'], ['report', '--help']:\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", text], env=_environment(), capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()


def test_retrain_then_status_then_retrain(toy: Path, prefect_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = _headland(toy, "retrain", HOME=str(home), PREFECT_HOME=str(prefect_home))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    status = json.loads(_headland(toy, "status", "--json").stdout)
    assert (status["as_of"], status["changed"], status["registered"]["version"]) == (2009, {}, 1)
    assert len(status["unchanged"]) == 5
    assert [path.name for path in home.rglob("*") if "prefect" in path.name or "mlflow" in path.name] == []
    again = _headland(toy, "retrain", "--no-register", PREFECT_HOME=str(prefect_home))
    assert again.returncode == 0
    assert "Nothing had to run." in again.stdout.splitlines()
    (toy / "rain.txt").write_text("9\n")
    assert list(json.loads(_headland(toy, "status", "--json").stdout)["changed"]) == ["weather"]


def test_without_prefect_home_its_database_stays_in_the_project(toy: Path, tmp_path: Path) -> None:
    from tasks.environment import prepare_environment

    before = dict(os.environ)
    try:
        for name in ("PREFECT_HOME", "DO_NOT_TRACK"):
            os.environ.pop(name, None)
        os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "chosen by the user"
        prepare_environment(toy)
        assert Path(os.environ["PREFECT_HOME"]).is_relative_to(toy / ".headland")
        assert os.environ["DO_NOT_TRACK"] == "1"
        assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "chosen by the user"
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_stage_and_all_that_was_started(
    toy: Path, prefect_home: Path, number: signal.Signals, code: int
) -> None:
    set_sleeper(toy)
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.cli", "retrain"],
        cwd=toy,
        env=_environment(PREFECT_HOME=str(prefect_home)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            pids = sleeper_pids(toy)
            others = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            assert set(alive(others)) > set(pids)
            # A terminal sends Ctrl-C to the whole foreground group, Prefect's server among them; kill sends to one.
            send = os.killpg if number == signal.SIGINT else os.kill
            send(process.pid, number)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code
    assert alive(others) == []
    assert "Traceback" not in errors


def test_a_failed_stage_is_one_message_and_exit_code_1(toy: Path, prefect_home: Path) -> None:
    set_stage(toy, "weather.py", "raise SystemExit('the gauge is broken')")
    done = _headland(toy, "retrain", PREFECT_HOME=str(prefect_home))
    assert done.returncode == 1
    assert "the gauge is broken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["retrain", "--force", "trian"], 1, "train"),
        (["report"], 1, "report"),
        (["advise", "--records", "r.csv"], 1, "bundle"),
        (["advise"], 1, "bundle"),
        (["retrain", "--stage-timeout-h", "-1"], 2, "stage-timeout-h"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_what_is_wrong_is_named(toy: Path, words: list[str], code: int, named: str) -> None:
    done = _headland(toy, *words)
    assert (done.returncode, named in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_outside_a_project_the_folder_is_named(tmp_path: Path) -> None:
    for command in ("retrain", "status", "report"):
        done = _headland(tmp_path, command)
        assert (done.returncode, str(tmp_path) in done.stderr) == (1, True)
    assert "Traceback" in _headland(tmp_path, "report", "--debug").stderr


def test_a_wrong_params_file_is_explained(toy: Path) -> None:
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text() + "\nsead: 3\n")
    done = _headland(toy, "status")
    assert done.returncode == 1
    assert "sead" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_bundle_is_not_registered_and_has_its_own_exit_code(toy: Path, prefect_home: Path) -> None:
    text = "import os\nos.makedirs('data/bundle')\nopen('data/bundle/headland-2009.tar', 'wb').write(b'nonsense')"
    set_stage(toy, "bundle.py", text)
    done = _headland(toy, "retrain", PREFECT_HOME=str(prefect_home))
    assert (done.returncode, "headland-2009.tar" in done.stderr) == (7, True), done.stderr
    assert json.loads(_headland(toy, "status", "--json").stdout)["registered"] is None


def test_tables_show_what_the_metrics_hold(tmp_path: Path) -> None:
    from tasks.summary import models_table, money_table

    assert (models_table(tmp_path), money_table(tmp_path)) == (None, None)
    (tmp_path / "compress").mkdir()
    row = {"metric": 0.5, "size_bytes": 2_000_000, "latency_p50_ms": 0.1, "latency_p99_ms": 0.2}
    whole = {"metric_name": "pinball", "shipped": "int8", "fp32": row, "int8": {**row, "size_bytes": 150_000}}
    (tmp_path / "compress" / "irrigation.json").write_text(json.dumps(whole))
    (tmp_path / "compress" / "yield.json").write_text("[]")
    policies = {"device": {"profit_usd_ha": 580.4}, "rainfed": {"profit_usd_ha": 32}, "odd": {}}
    home = {"policies": policies, "gain_usd_ha": {"rainfed": {"mean": 548.4, "standard_error": 7}}}
    (tmp_path / "evaluate.json").write_text(json.dumps({"closed_loop": {"maize": {"home": home}, "wheat": None}}))
    models, money = models_table(tmp_path), money_table(tmp_path)
    assert models is not None
    assert money is not None
    assert [list(column.cells) for column in models.columns[:4]] == [
        ["irrigation", "yield"],
        ["pinball", ""],
        ["0.5 → 0.5", "– → –"],
        ["2,000 → 150", "– → –"],
    ]
    assert [list(column.cells) for column in money.columns] == [
        ["maize", "maize"],
        ["device", "rainfed"],
        ["580", "32"],
        ["", "+548 ± 7"],
    ]


def test_advise_passes_on_to_the_device_package(toy: Path) -> None:
    done = _headland(toy, "advise", "--help")
    assert done.returncode == 0
    assert "--records" in done.stdout
    missing = _headland(toy, "advise", "--bundle", "none.tar", "--records", "none.csv")
    assert missing.returncode not in (0, 2)
    assert "none" in missing.stderr
    assert "Traceback" not in missing.stderr
