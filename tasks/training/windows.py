"""Windows of mornings for training, gathered from memory-mapped arrays and never materialised.

A folder ``data/windows/<model>`` holds ``features.npy`` float32 [rows, channels] (field-seasons one after the other,
each after ``window_days - 1`` rows of zeros), ``index.npy`` int64 [windows] (row of a window's last morning),
``targets.npy`` float32 [windows] (scaled), ``split.npy`` uint8 [windows] (0 training, 1 validation), ``meta.json``.

Nothing here needs torch: the stages that only look at windows start in a moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

_CHUNK_ROWS = 1 << 18
_ARRAYS = {"features": "<f4", "index": "<i8", "targets": "<f4", "split": "|u1", "group": "<i4"}


class WindowsError(Exception):
    """Windows that cannot be trained on; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Target:
    """What is estimated: ``value = offset + scale * output``."""

    name: str
    unit: str
    offset: float
    scale: float


@dataclass(frozen=True)
class Windows:
    """All windows of one model, on disk.

    Args:
        folder: where they lie.
        channels: names, in order.
        target: what ``targets`` mean.
        features: float32 [rows, channels], memory-mapped.
        index: int64 [windows], row of each window's last morning.
        targets: float32 [windows], scaled.
        training: int64, windows to learn from.
        validation: int64, windows of seasons left out.
        group: int32 [windows], the season of each.
        window_days: mornings per window.
    """

    folder: Path
    channels: tuple[str, ...]
    target: Target
    features: npt.NDArray[np.float32]
    index: npt.NDArray[np.int64]
    targets: npt.NDArray[np.float32]
    training: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    group: npt.NDArray[np.int32]
    window_days: int

    def gather(self, windows: npt.NDArray[np.int64] | Sequence[int]) -> npt.NDArray[np.float32]:
        """The named windows as float32 [n, channels, window_days], oldest morning first."""
        starts = self.index[np.asarray(windows, dtype=np.int64)] - (self.window_days - 1)
        return np.ascontiguousarray(sliding_window_view(self.features, self.window_days, axis=0)[starts])

    def fingerprint(self) -> str:
        """SHA-256 over the contents of every file of the folder."""
        digest = hashlib.sha256()
        for name in ("meta.json", *(f"{array}.npy" for array in _ARRAYS)):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def open_windows(folder: Path) -> Windows:
    """Open and check a folder of windows.

    Raises:
        WindowsError: a file is missing, cut short, of another type or shape, or holds values nothing can learn from.
    """
    meta = _read_meta(folder)
    arrays = {name: _read_array(folder / f"{name}.npy", kind) for name, kind in _ARRAYS.items()}
    features, index, targets, split, group = (arrays[name] for name in _ARRAYS)
    try:
        channels, window_days = tuple(meta["channels"]), int(meta["window_days"])
        plain = meta["target"]
        target = Target(str(plain["name"]), str(plain["unit"]), float(plain["offset"]), float(plain["scale"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WindowsError(f"{folder / 'meta.json'}: {error!r} is missing or wrong. {_REMAKE}") from None
    _check_shapes(folder, arrays, len(channels))
    _check_values(folder, arrays, window_days)
    training, validation = np.flatnonzero(split == 0), np.flatnonzero(split == 1)
    return Windows(folder, channels, target, features, index, targets, training, validation, group, window_days)


_REMAKE = "Make the windows again: dvc repro windows"


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except FileNotFoundError:
        raise WindowsError(f"{folder / 'meta.json'}: no such file. {_REMAKE}") from None
    except ValueError as error:
        raise WindowsError(f"{folder / 'meta.json'}: no JSON ({error}). {_REMAKE}") from None
    if not isinstance(meta, dict):
        raise WindowsError(f"{folder / 'meta.json'}: not an object. {_REMAKE}")
    return meta


def _read_array(path: Path, kind: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise WindowsError(f"{path}: no such file. {_REMAKE}") from None
    except (ValueError, OSError, EOFError) as error:
        raise WindowsError(f"{path}: cut short or no array ({error}). {_REMAKE}") from None
    if array.dtype.str != kind:
        raise WindowsError(f"{path}: holds {array.dtype}, needed is {np.dtype(kind)}. {_REMAKE}")
    return array


def _check_shapes(folder: Path, arrays: dict[str, npt.NDArray[Any]], channels: int) -> None:
    features = arrays["features"]
    if features.ndim != 2 or features.shape[1] != channels:
        shape = list(features.shape)
        raise WindowsError(f"{folder / 'features.npy'}: shape {shape}, meta.json names {channels} channels. {_REMAKE}")
    for name in ("targets", "split", "group"):
        if arrays[name].shape != arrays["index"].shape or arrays[name].ndim != 1:
            counts = f"{list(arrays[name].shape)} entries for {list(arrays['index'].shape)} windows"
            raise WindowsError(f"{folder / name}.npy: {counts}. {_REMAKE}")


def _check_values(folder: Path, arrays: dict[str, npt.NDArray[Any]], window_days: int) -> None:
    features, index, targets, split, _ = (arrays[name] for name in _ARRAYS)
    bad = np.flatnonzero((index < window_days - 1) | (index >= len(features)))
    if bad.size:
        row = int(index[bad[0]])
        raise WindowsError(f"{folder / 'index.npy'}: window {bad[0]} ends on row {row}, outside the rows. {_REMAKE}")
    bad = np.flatnonzero(~np.isfinite(targets))
    if bad.size:
        what = f"{bad.size} targets are not numbers, first at window {bad[0]}"
        raise WindowsError(f"{folder / 'targets.npy'}: {what}. Look at the labels: data/labels/{folder.name}.parquet")
    for start in range(0, len(features), _CHUNK_ROWS):
        bad = np.flatnonzero(~np.isfinite(features[start : start + _CHUNK_ROWS]).all(axis=1))
        if bad.size:
            raise WindowsError(f"{folder / 'features.npy'}: row {start + bad[0]} holds what is no number. {_REMAKE}")
    for part, what in ((0, "training"), (1, "validation")):
        if not (split == part).any():
            raise WindowsError(f"{folder / 'split.npy'}: no {what} window. Add seasons or move as_of in params.yaml.")
