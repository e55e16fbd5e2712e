from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT


def stage(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    paths = f"{ROOT}:{ROOT / 'edge'}"
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params and weather."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    done = stage(folder, "tasks.sources.weather")
    assert done.returncode == 0, done.stderr
    return folder


def with_params(project: Path, folder: Path, **changes: object) -> Path:
    content = yaml.safe_load((project / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**content, **changes}))
    (folder / "data").mkdir()
    (folder / "data/weather").symlink_to(project / "data/weather")
    return folder


def only_a_message(done: subprocess.CompletedProcess[str], *named: str) -> None:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name in named:
        assert name in done.stderr


def test_a_season_without_data_is_named_with_the_years_to_choose_from(project: Path, tmp_path: Path) -> None:
    folder = with_params(project, tmp_path, as_of=2190)
    only_a_message(stage(folder, "tasks.policies.tune"), "as_of", "2190", "Choose as_of")
    assert not (folder / "data/policies.json").exists()


def test_an_unknown_key_is_named_with_its_line(project: Path, tmp_path: Path) -> None:
    folder = with_params(project, tmp_path, test_season=10)
    only_a_message(stage(folder, "tasks.seasons.generate"), "params.yaml", "test_season", "test_seasons")


def test_truncated_weather_is_named_and_no_season_is_written(project: Path, tmp_path: Path) -> None:
    folder = with_params(project, tmp_path)
    (folder / "data/weather").unlink()
    (folder / "data/weather").mkdir()
    for file in (project / "data/weather").iterdir():
        (folder / "data/weather" / file.name).write_bytes(file.read_bytes())
    champion = folder / "data/weather/champion.parquet"
    champion.write_bytes(champion.read_bytes()[:1000])
    only_a_message(stage(folder, "tasks.seasons.generate"), "champion.parquet", "dvc repro")
    assert not (folder / "data/seasons").exists()


def test_missing_labels_and_features_are_named(project: Path, tmp_path: Path) -> None:
    folder = with_params(project, tmp_path)
    only_a_message(stage(folder, "tasks.features.labels", "irrigation"), "no season of maize")


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    script = (
        "import errno\nfrom tasks.stage_main import end_of_stage\n"
        "def main():\n    open('/dev/full', 'w', buffering=1).write('x' * 100 + chr(10))\n"
        "end_of_stage(main)\n"
    )
    (tmp_path / "full.py").write_text(script)
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'edge'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "full.py"], cwd=tmp_path, env=paths, capture_output=True, text=True)
    only_a_message(done, "no space left")


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    script = "from tasks.stage_main import end_of_stage\nend_of_stage(lambda: 1 / 0)\n"
    (tmp_path / "defect.py").write_text(script)
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'edge'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "defect.py"], cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_model_that_params_do_not_have_is_wrong_usage_and_the_known_ones_are_named(project: Path) -> None:
    done = stage(project, "tasks.features.labels", "yeild")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "irrigation, nitrogen, yield" in done.stderr
