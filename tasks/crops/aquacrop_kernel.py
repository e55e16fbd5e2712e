"""The compiled maize model: made once, kept in a cache folder outside the project, checked whenever it is loaded.

    <cache>/headland/aquacrop-<key>/aquacrop_day.py    what ``tasks.crops.aquacrop_source`` writes
    <cache>/headland/aquacrop-<key>/__pycache__/       machine code, numba's own files
    <cache>/headland/aquacrop-<key>/whole.json         hashes of all of them

``<cache>`` is ``XDG_CACHE_HOME`` or ``~/.cache``. The key names the text, the forms of the records, Python, numba and
the processor, so that nothing stale is ever loaded; a file that is not what was written makes the whole be built anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tasks.crops.aquacrop_records import record_of

_NAME = "aquacrop_day"
_WHOLE = "whole.json"


class KernelError(RuntimeError):
    """The compiled model can't be kept or loaded safely; the message says what to set."""


class Example(NamedTuple):
    """Records of the forms the model is compiled for; see ``tasks.crops.aquacrop_driver``."""

    states: np.ndarray[Any, Any]
    profiles: np.ndarray[Any, Any]
    crops: np.ndarray[Any, Any]
    co2s: np.ndarray[Any, Any]
    soils: np.ndarray[Any, Any]
    management: np.ndarray[Any, Any]
    ground: np.ndarray[Any, Any]


def example_of(parameters: Any, state: Any) -> Example:
    """Records of an initialised model."""
    soil = parameters.Soil
    objects = (state, soil.Profile, parameters.Seasonal_Crop_List[0], parameters.CO2, soil, parameters.IrrMngt)
    return Example(*(record_of(each) for each in (*objects, parameters.FieldMngt)))


def cache_folder() -> Path:
    """Where compiled models are kept: the user's cache, or a temporary folder where that can't be written."""
    wanted = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headland"
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK):
            return wanted
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"headland-{os.getuid()}"


@cache
def kernel(example: Any) -> ModuleType:
    """The compiled module.

    Args:
        example: a function without arguments that returns an ``Example``; the same one each time.

    Raises:
        SourceError: aquacrop is installed in another version than the one supported.
        KernelError: the cache folder belongs to somebody else.
        OSError: the cache folder can't be written.
    """
    from tasks.crops.aquacrop_source import module_source

    shown: Example = example()
    text = module_source()
    folder = cache_folder() / f"aquacrop-{_key(text, shown)}"
    with _locked(folder):
        if not _is_whole(folder):
            _build(folder, text, shown)
        return _loaded(folder)


def _key(text: str, shown: Example) -> str:
    parts = [text, sys.version, version("numba"), version("llvmlite"), platform.machine(), _processor()]
    parts += [str(each.dtype.descr) for each in shown]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What machine code depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process builds, the others wait."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.parent.stat().st_uid != os.getuid():  # code is loaded from it
        raise KernelError(f"{folder.parent} belongs to another user; set XDG_CACHE_HOME to a folder of your own")
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != _WHOLE)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _is_whole(folder: Path) -> bool:
    try:
        written = json.loads((folder / _WHOLE).read_text())
    except (OSError, ValueError):
        return False
    return bool(written == _hashes(folder))


def _build(folder: Path, text: str, shown: Example) -> None:
    """Write and compile; machine code is numba's to write, so this happens in place and is sealed at the end."""
    began = time.perf_counter()
    print("compiling the maize model, once on this machine (about half a minute) ...", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / f"{_NAME}.py").write_text(text)
    module = _loaded(folder)
    _run_once(module, shown)
    (folder / _WHOLE).write_text(json.dumps(_hashes(folder), indent=1))
    print(f"compiled in {time.perf_counter() - began:.0f} s, kept in {folder}", file=sys.stderr, flush=True)


def _loaded(folder: Path) -> ModuleType:
    name = f"{_NAME}_{folder.name.rpartition('-')[2]}"
    spec = importlib.util.spec_from_file_location(name, folder / f"{_NAME}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # only what is sealed lies in the folder
    try:
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


def _run_once(module: ModuleType, shown: Example) -> None:
    """Compile every function for these forms by calling it for one day."""
    states, profiles, *rest = (each.copy() for each in shown)
    crops, co2s, soils, management, ground = rest
    index, days, flags, water = np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(1, np.bool_), np.zeros(1)
    weather = np.array([[[10.0, 25.0, 0.0, 5.0]]])
    out = np.full((4, 1), np.nan)
    module.morning_fields(states, profiles, crops, soils, index, index, flags, 0.65, out)
    module.step_fields(
        states, profiles, crops, co2s, soils, management, ground, index, index, weather, flags, water, days, index + 9
    )
