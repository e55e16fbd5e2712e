from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from headland_edge import __version__
from headland_edge.bundle import Bundle, write_bundle
from headland_edge.records import Records, write_csv

from tests.edge.small_bundle import lost, npy, parts, season


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headland_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def advise(bundle: Path, tmp_path: Path, records: Records, *more: str) -> subprocess.CompletedProcess[str]:
    write_csv(tmp_path / "field.csv", records)
    return run("advise", "--bundle", bundle, "--records", tmp_path / "field.csv", *more)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_advice_is_json(known_bundle: Bundle, tmp_path: Path, form: list[str]) -> None:
    done = advise(known_bundle.path, tmp_path, season("maize", 41), *form)
    assert (done.returncode, done.stderr) == (0, "")
    advice = json.loads(done.stdout)
    assert (advice["irrigation_mm"], advice["date"]) == (30.0, "2009-05-30")
    assert advice["bundle_sha256"] == known_bundle.sha256


def test_advice_as_text(known_bundle: Bundle, tmp_path: Path) -> None:
    done = advise(known_bundle.path, tmp_path, season("wheat", 33), "--text")
    assert done.returncode == 0
    assert "2009-05-22 wheat, day 32: 35 kg N/ha" in done.stdout
    assert "n_supply_kg_ha 50.00 (30.00 to 80.00)" in done.stdout


def test_a_refusal_is_3_and_says_why_in_json_too(known_bundle: Bundle, tmp_path: Path) -> None:
    done = advise(known_bundle.path, tmp_path, lost(season("maize", 41), "depletion_frac", 20))
    assert done.returncode == 3
    assert "depletion_frac" in json.loads(done.stdout)["refused"]
    assert done.stderr.startswith("refused: ")
    assert advise(known_bundle.path, tmp_path, season("maize", 9, taw_mm=np.nan), "--text").stdout == ""


def test_bad_records_are_1_and_name_the_place(known_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("crop,sowing_date,date\n")
    done = run("advise", "--bundle", known_bundle.path, "--records", tmp_path / "bad.csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert "bad.csv, line 1" in done.stderr
    assert run("advise", "--bundle", known_bundle.path, "--records", tmp_path / "none.csv").returncode == 1


@pytest.mark.parametrize(
    "arguments", [[], ["advise"], ["dance"], ["advise", "--bundle", "b", "--records", "r", "--jsn"]]
)
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: headland-edge" in done.stderr


def test_a_damaged_bundle_is_7(known_bundle: Bundle, tmp_path: Path) -> None:
    data = bytearray(known_bundle.path.read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "damaged.tar").write_bytes(data)
    done = advise(tmp_path / "damaged.tar", tmp_path, season("maize", 41))
    assert (done.returncode, done.stdout) == (7, "")
    assert "damaged.tar, member " in done.stderr
    assert run("verify", "--bundle", tmp_path / "damaged.tar").returncode == 7
    assert run("verify", "--bundle", tmp_path / "none.tar").returncode == 7


def test_verify_reproduces_golden_outputs_or_is_7(known_bundle: Bundle, tmp_path: Path) -> None:
    done = run("verify", "--bundle", known_bundle.path)
    assert done.returncode == 0
    assert set(json.loads(done.stdout)["models"]) == {"irrigation", "nitrogen", "yield"}
    manifest, members = parts()
    members["golden/nitrogen.outputs.npy"] = npy(np.full((3, 3), 9.0, np.float32))
    write_bundle(tmp_path / "other.tar", manifest, members)
    done = run("verify", "--bundle", tmp_path / "other.tar")
    assert done.returncode == 7
    assert "models/nitrogen.onnx: golden outputs differ" in done.stderr


def test_version_and_help() -> None:
    assert run("--version").stdout.strip() == f"headland-edge {__version__}"
    assert "advise" in run("--help").stdout


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_device_package_pulls_in_nothing_heavy() -> None:
    code = """
import importlib, pkgutil, headland_edge
for module in pkgutil.iter_modules(headland_edge.__path__):
    if module.name != "__main__":
        importlib.import_module(f"headland_edge.{module.name}")
"""
    loaded = modules_after(code)
    assert "headland_edge.advisor" in loaded
    assert not loaded & {
        "torch",
        "pandas",
        "polars",
        "prefect",
        "mlflow",
        "dvc",
        "onnx",
        "onnxruntime",
        "pydantic",
        "tasks",
    }


def test_help_loads_neither_numpy_nor_onnxruntime() -> None:
    loaded = modules_after("import headland_edge.cli as c\ntry: c.main(['--version'])\nexcept SystemExit: pass")
    assert "headland_edge.cli" in loaded
    assert not loaded & {"numpy", "onnxruntime"}
