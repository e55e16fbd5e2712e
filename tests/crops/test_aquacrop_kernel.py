from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.crops import aquacrop_kernel, aquacrop_source
from tasks.crops.aquacrop_records import form_of, record_of, refuse_uncovered
from tasks.crops.maize_start import _of_soil, compiled, example

PROGRAM = """
import sys
from tests.crops.test_aquacrop_kernel import one_season
print(one_season().hex())
"""


def one_season() -> float:
    from tests.crops.test_maize import grow, maize

    return float(grow((maize(),), ["weekly"])[1].yield_t_ha[0])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "headland"


def in_a_process_of_its_own() -> tuple[float, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=600)
    return float.fromhex(done.stdout.strip()), done.stderr


def test_no_power_is_left_for_numba_to_multiply_out() -> None:
    source = aquacrop_source.module_source()
    assert "**" not in source
    assert source.count("_pow(") > 8


@pytest.mark.slow
def test_it_is_compiled_once_and_whatever_is_damaged_is_made_anew(own_cache: Path, tmp_path: Path) -> None:
    expected = one_season()
    assert in_a_process_of_its_own()[0] == expected
    (folder,) = (path for path in own_cache.iterdir() if path.is_dir())
    grain, said = in_a_process_of_its_own()
    assert (grain, "compiling" in said) == (expected, False)
    damages = (
        lambda cache: (cache / "aquacrop_day.py").write_text("day = None"),
        lambda cache: (cache / "whole.json").unlink(),
        lambda cache: next((cache / "__pycache__").glob("*.nbc")).write_bytes(b"damaged"),
    )
    for number, damage in enumerate(damages):
        copied = Path(shutil.copytree(folder, tmp_path / str(number)))
        assert aquacrop_kernel._is_whole(copied)
        damage(copied)
        assert not aquacrop_kernel._is_whole(copied)
    damages[-1](folder)
    grain, said = in_a_process_of_its_own()
    assert (grain, "compiling the maize model" in said) == (expected, True)


def test_what_it_depends_on_is_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    text, shown = aquacrop_source.module_source(), example()
    key = aquacrop_kernel._key(text, shown)
    assert key == aquacrop_kernel._key(text, shown)
    assert key != aquacrop_kernel._key(text + "#", shown)
    wider = np.dtype([*shown.states.dtype.descr, ("more", "<f8")])
    assert key != aquacrop_kernel._key(text, shown._replace(states=np.zeros(1, wider)))
    monkeypatch.setattr(aquacrop_kernel, "version", lambda package: "9.9.9")
    assert key != aquacrop_kernel._key(text, shown)


def test_a_folder_that_lacks_a_file_or_holds_another_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "whole.json").write_text(json.dumps(aquacrop_kernel._hashes(tmp_path)))
    assert aquacrop_kernel._is_whole(tmp_path)
    (tmp_path / "b").write_text("b")
    assert not aquacrop_kernel._is_whole(tmp_path)
    (tmp_path / "b").unlink()
    (tmp_path / "whole.json").write_text("{")
    assert not aquacrop_kernel._is_whole(tmp_path)


def test_a_cache_that_cannot_be_written_is_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert aquacrop_kernel.cache_folder().parent == tmp_path


def test_a_cache_of_somebody_else_is_not_trusted(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: own_cache.parent.stat().st_uid + 1)
    with (
        pytest.raises(aquacrop_kernel.KernelError, match="belongs to another user; set XDG_CACHE_HOME"),
        aquacrop_kernel._locked(own_cache / "aquacrop-0"),
    ):
        pass


def test_the_source_holds_every_function_of_a_day_and_no_object() -> None:
    text = aquacrop_source.module_source()
    compile(text, "aquacrop_day", "exec")
    assert all(f"def {name}(" in text for name in (*aquacrop_source.MODULES, "day", "step_fields", "morning_fields"))
    assert not any(word in text for word in (" is True", "outputs", "clock_struct", "param_struct"))


def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aquacrop_source, "version", lambda package: "9.9.9")
    with pytest.raises(aquacrop_source.SourceError, match=r"aquacrop 9\.9\.9 is installed, .* exactly 3\.1\.0"):
        aquacrop_source.module_source()


def test_a_package_that_looks_different_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aquacrop_source, "_KEPT", 33)
    with pytest.raises(aquacrop_source.SourceError, match="day step looks different"):
        aquacrop_source.module_source()


def test_records_hold_numbers_flags_and_arrays_and_nothing_else() -> None:
    value = SimpleNamespace(a=1, b=True, c=np.arange(3.0), name="x", more=None)
    assert form_of(value).names == ("a", "b", "c")
    record = record_of(value)
    assert (record["a"][0], record["b"][0], record["c"][0].tolist()) == (1.0, True, [0.0, 1.0, 2.0])
    with pytest.raises(KeyError, match="c"):
        record_of(SimpleNamespace(a=1, b=True), form_of(value))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("water_table", 1), "groundwater"),
        (("Soil.tile_drainage", True), "tile drainage"),
        (("FieldMngt.bunds", True), "bunds"),
        (("FieldMngt.mulches", True), "mulches"),
        (("IrrMngt.irrigation_method", 4), "irrigation methods"),
    ],
)
def test_what_is_not_simulated_is_refused_by_name(
    change: tuple[str, object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = _of_soil("Loam")._param_struct
    refuse_uncovered(parameters)
    *path, name = change[0].split(".")
    holder = getattr(parameters, path[0]) if path else parameters
    monkeypatch.setattr(holder, name, change[1])
    with pytest.raises(ValueError, match=f"does not cover {named}"):
        refuse_uncovered(parameters)


def test_crops_by_degree_days_and_seasons_in_a_row_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = _of_soil("Loam")._param_struct
    crop = SimpleNamespace(CalendarType=2)
    monkeypatch.setattr(parameters, "Seasonal_Crop_List", [crop, crop])
    with pytest.raises(ValueError, match="degree-days, more than one season"):
        refuse_uncovered(parameters)


def test_roots_below_the_profile_are_an_error_not_a_wrong_number() -> None:
    module = compiled()
    with pytest.raises(IndexError, match="below the soil profile"):
        module._first_ge(np.array([0.1, 0.2]), 0.3)
