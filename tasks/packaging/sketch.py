"""The sketch that ships in the bundle: what training mornings looked like, and how far seasons left out lay from them.

Novelty and drift are judged on seasons that the fit did not see: each training season is left out in one of
``FOLDS``, and validation seasons are left out by nature. A season's weather is one draw for all of its fields, so the
limits of drift are set by seasons: at most one in ``1 / (1 - CALM)`` of those left out had a field that passed them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from headland_edge.features import FEATURES
from headland_edge.manifest import Calibration, Target
from headland_edge.runtime import Session
from headland_edge.sketch import (
    BIN_DAYS,
    BINS,
    LEVELS,
    MOST_SURPRISE,
    SUMMARY,
    CropSketch,
    Drift,
    FloatArray,
    Limits,
    percentile,
    sketch_bytes,
    summarise,
)
from numpy.typing import NDArray

from tasks.training.windows import Windows, open_windows

AXES = 4
FOLDS = 5
CALM = 0.95
"""Share of left-out seasons without drift on any field."""
WIDTH_WINDOWS = 2000
_MARGIN = 1.05
_OVER = 0.8
_LEAST_START, _MOST_START = 0.8, 0.9 * MOST_SURPRISE
_LEAST_SPREAD = 0.1
_GROWN = [feature.name for feature in FEATURES].index("grown")
_WHEAT = [feature.name for feature in FEATURES].index("is_wheat")
_DAYS = [feature.name for feature in FEATURES].index("days_after_sowing")
_NO_LIMITS = Limits(1.0, 0.5)


@dataclass(frozen=True, eq=False)
class FieldSeason:
    """One field's season in the windows.

    Args:
        crop: on it.
        season: year.
        is_training: or a validation season.
        features: float32 [mornings, channels].
    """

    crop: str
    season: int
    is_training: bool
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Shipped:
    """A net that ships, and what its outputs mean."""

    onnx: bytes
    target: Target
    windows: Windows


def target_of(plain: Mapping[str, object]) -> Target:
    """A manifest's target from its plain form."""
    calibration = plain.get("calibration", {})
    assert isinstance(calibration, Mapping)
    known = {crop: Calibration(**each) for crop, each in calibration.items()}
    return Target(**{**plain, "calibration": known})  # type: ignore[arg-type]  # made by build_bundle.target_entry


def make_sketch(root: Path, models: Mapping[str, Mapping[str, object]], onnx: Mapping[str, bytes]) -> bytes:
    """The sketch of all crops that ``models`` serve.

    Args:
        root: folder of windows.
        models: manifest entries by name.
        onnx: the shipped nets by name.
    """
    shipped = {}
    for name, entry in models.items():
        target = entry["target"]
        assert isinstance(target, Mapping)
        shipped[name] = Shipped(onnx[name], target_of(target), open_windows(root / name))
    seasons = {name: list(field_seasons(each.windows)) for name, each in shipped.items()}
    crops = {}
    for crop in sorted({season.crop for found in seasons.values() for season in found}):
        by_model = [[season for season in found if season.crop == crop] for _, found in sorted(seasons.items())]
        known = max(by_model, key=len)
        serving = [each for name, each in sorted(shipped.items()) if any(s.crop == crop for s in seasons[name])]
        crops[crop] = sketch_of(known, {each.target.name: widths(each, crop) for each in serving})
    return sketch_bytes(crops)


def field_seasons(windows: Windows) -> Iterator[FieldSeason]:
    """Cut the rows of ``windows`` back into field seasons; those without any window are left out."""
    grown = windows.features[:, _GROWN] > 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[False], grown, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    first = np.unique(np.searchsorted(starts, windows.index, side="right") - 1, return_index=True)
    is_training = np.isin(np.arange(windows.index.size), windows.training)
    for block, window in zip(*first, strict=True):
        features = np.array(windows.features[starts[block] : ends[block]])
        crop = "wheat" if features[0, _WHEAT] > 0.5 else "maize"
        yield FieldSeason(crop, int(windows.group[window]), bool(is_training[window]), features)


def sketch_of(seasons: Sequence[FieldSeason], found_widths: Mapping[str, FloatArray]) -> CropSketch:
    """The sketch of one crop.

    Args:
        seasons: training and validation field seasons of it.
        found_widths: quantiles of band widths by target.
    """
    whole = fitted([each for each in seasons if each.is_training], found_widths)
    foreign: list[tuple[int, FloatArray]] = []
    years = np.unique([each.season for each in seasons if each.is_training])
    for fold in range(min(FOLDS, len(years))):
        out = set(years[fold::FOLDS].tolist())
        rest = [each for each in seasons if each.is_training and each.season not in out]
        fit = fitted(rest, {}) if rest else whole
        foreign += [(s.season, distances(fit, s)) for s in seasons if s.is_training and s.season in out]
    foreign += [(s.season, distances(whole, s)) for s in seasons if not s.is_training]
    every = np.concatenate([found for _, found in foreign])
    novelty = np.quantile(every[np.isfinite(every)], LEVELS)
    return CropSketch(**{**vars(whole), "novelty": novelty, "limits": limits_of(foreign, novelty)})


def distances(fit: CropSketch, season: FieldSeason) -> FloatArray:
    """How far each morning of a season lies from what ``fit`` saw."""
    return fit.distances(summarise(season.features), np.arange(len(season.features)))


def limits_of(foreign: Sequence[tuple[int, FloatArray]], novelty: FloatArray) -> Limits:
    """Limits that few of the seasons left out would pass on any field."""
    peaks: dict[int, float] = {}
    for season, found in foreign:
        state, top = Drift(), 0.0
        for each in percentile(found, novelty).tolist():
            state = state.next(each, _NO_LIMITS)
            top = max(top, state.level)
        peaks[season] = max(peaks.get(season, 0.0), top)
    start = float(np.quantile(list(peaks.values()), CALM, method="higher")) * _MARGIN
    start = min(max(start, _LEAST_START), _MOST_START)
    return Limits(start, _OVER * start)


def fitted(seasons: Sequence[FieldSeason], found_widths: Mapping[str, FloatArray]) -> CropSketch:
    """Mean, spread and directions of the mornings of ``seasons``; novelty and limits are still to be found."""
    summaries = [summarise(each.features) for each in seasons]
    rows = np.concatenate(summaries)
    bins = np.concatenate([np.clip(np.arange(len(each)) // BIN_DAYS, 0, BINS - 1) for each in summaries])
    mean, spread = moments(rows, bins)
    known = np.isfinite(rows) & (spread[bins] > 0)
    departures = np.where(known, rows - mean[bins], 0.0) / np.where(known, spread[bins], 1.0)
    values, vectors = np.linalg.eigh(departures.T @ departures / len(departures))
    values, vectors = values[::-1], vectors[:, ::-1]
    # A direction's sign means nothing; fixing it keeps the bytes the same.
    vectors = vectors * np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(len(SUMMARY))])
    return CropSketch(
        mean=mean,
        spread=spread,
        axes=vectors[:, :AXES],
        variance=np.maximum(values[:AXES], 1e-2),
        rest=float(max(values[AXES:].mean(), 1e-2)),
        novelty=np.zeros(len(LEVELS)),
        widths=found_widths,
        limits=_NO_LIMITS,
    )


def moments(rows: FloatArray, bins: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Mean and spread of each number by bin; a bin without mornings takes those of the nearest one before it.

    Early totals hardly differ from field to field: no spread is less than ``_LEAST_SPREAD`` of the one over all bins.
    """
    mean, spread = (np.zeros((BINS, rows.shape[1])) for _ in range(2))
    for column in range(rows.shape[1]):
        values = rows[:, column]
        known = np.isfinite(values)
        overall = float(values[known].std()) if known.any() else 0.0
        if overall < 1e-6:
            continue
        at, last = bins[known], None
        for b in range(BINS):
            here = values[known][at == b]
            if here.size > 1:
                last = (float(here.mean()), max(float(here.std()), _LEAST_SPREAD * overall))
            if last is not None:
                mean[b, column], spread[b, column] = last
    return mean, spread


def widths(shipped: Shipped, crop: str) -> FloatArray:
    """Quantiles at ``LEVELS`` of the band's width on training mornings of ``crop``, by age; [BINS, levels]."""
    windows = shipped.windows
    last = windows.index[windows.training]
    ours = windows.training[(windows.features[last, _WHEAT] > 0.5) == (crop == "wheat")]
    picks = ours[:: max(1, len(ours) // WIDTH_WINDOWS)]
    session = Session(shipped.onnx, shipped.target.name)
    days = np.rint(windows.features[windows.index[picks], _DAYS] * FEATURES[_DAYS].scale).astype(np.int64)
    found = np.empty(len(picks))
    for i, (pick, season) in enumerate(zip(picks, windows.group[picks].tolist(), strict=True)):
        band = shipped.target.quantiles(session.run(windows.gather([pick]))[0], crop, season)
        found[i] = band[2] - band[0]
    bins = np.clip(days // BIN_DAYS, 0, BINS - 1)
    quantiles = np.tile(np.quantile(found, LEVELS), (BINS, 1))
    for b in np.unique(bins):
        quantiles[b] = np.quantile(found[bins == b], LEVELS)
    return quantiles
