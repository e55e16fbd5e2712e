"""The sketch: what training data looked like, in a few kB, so that a device can tell what is foreign to its nets.

1. ``summarise`` turns the features of a field's mornings into a handful of numbers a morning: means over the last
   ``TRAILING_MORNINGS`` where the sensor was read, and totals since sowing.
2. By days after sowing, training had a mean and a spread of each; along few directions most of what is left varies.
   The distance from that (probabilistic principal components, Tipping & Bishop 1999) is the *novelty* of a morning,
   told as its percentile among training mornings.
3. The width of a net's band is told the same way, as *uncertainty*: its percentile among training mornings of that age.
4. *Drift* is novelty that lasts: a running mean of its surprise above a limit that left-out seasons rarely reached.

What is not known is not novel: a missing reading counts as the mean. Nothing here keeps state between mornings but
``Drift``, which can be made again from the season's records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from headland_edge.features import FEATURES
from headland_edge.records import CROPS

FloatArray = NDArray[np.float64]

VERSION = 1
MAX_BYTES = 64 * 1024
TRAILING_MORNINGS = 14
BIN_DAYS = 15
BINS = 10
"""Mornings of like age share a bin; the last one is open."""
LEVELS = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0])
"""Of all quantiles in a sketch."""
FORGET = 0.1
"""Weight of this morning in the running mean of surprise."""
_LIMITS = ("start", "over")
_LEAST_CHANCE = 1e-3
MOST_SURPRISE = -math.log10(_LEAST_CHANCE)

_AT = {feature.name: index for index, feature in enumerate(FEATURES)}
_TRAILING = {
    "rain_mm": "weather_seen",
    "et0_mm": "weather_seen",
    "tmax_c": "weather_seen",
    "depletion_frac": "depletion_seen",
    "soil_mineral_n_kg_ha": "soil_mineral_n_seen",
    "lai": "lai_seen",
}
_LATEST = (
    "rain_total_mm",
    "irrigation_total_mm",
    "nitrogen_total_kg_ha",
    "growing_degree_days_c_d",
)
SUMMARY = (*_TRAILING, "taw_mm", *_LATEST)
"""What a morning is summarised by, in order; scaled as the features are."""
_TRAILING_AT = np.array([_AT[name] for name in _TRAILING])
_SEEN_AT = np.array([_AT[name] for name in _TRAILING.values()])
_LATEST_AT = np.array([_AT[name] for name in _LATEST])


class SketchError(ValueError):
    """A sketch that cannot be used; the message names the key and what is expected."""


@dataclass(frozen=True)
class Limits:
    """Between them drift goes on as it was.

    Args:
        start: surprise above which drift begins.
        over: surprise below which it is over; less than ``start``.
    """

    start: float
    over: float


@dataclass(frozen=True)
class Drift:
    """How far a field has drifted, morning by morning.

    Args:
        level: running mean of surprise, 0 to ``MOST_SURPRISE``.
        drifting: whether it has begun and is not over.
    """

    level: float = 0.0
    drifting: bool = False

    def next(self, novelty: float, limits: Limits) -> Drift:
        """After a morning of that novelty, a percentile as a share; NaN leaves everything as it was."""
        if math.isnan(novelty):
            return self
        level = self.level + FORGET * (float(surprise(novelty)) - self.level)
        return Drift(level, level > limits.over if self.drifting else level > limits.start)


@dataclass(frozen=True, eq=False)
class CropSketch:
    """What training mornings of one crop looked like.

    Args:
        mean: shape (BINS, len(SUMMARY)), by age.
        spread: same shape, standard deviations; 0 where training knew nothing, and nothing is novel.
        axes: shape (len(SUMMARY), r), orthonormal: directions along which mornings varied most.
        variance: shape (r,), along them.
        rest: variance of each direction left.
        novelty: distances at ``LEVELS``.
        widths: by target, shape (BINS, len(LEVELS)): width of the band in the target's unit.
        limits: of drift.
    """

    mean: FloatArray
    spread: FloatArray
    axes: FloatArray
    variance: FloatArray
    rest: float
    novelty: FloatArray
    widths: Mapping[str, FloatArray]
    limits: Limits

    def distances(self, summaries: FloatArray, days: NDArray[np.int64]) -> FloatArray:
        """How far mornings lie from training's: shape (n,), NaN where nothing is known of a morning.

        Args:
            summaries: shape (n, len(SUMMARY)), from ``summarise``.
            days: shape (n,), days after sowing.
        """
        bins = np.clip(days // BIN_DAYS, 0, BINS - 1)
        spread = self.spread[bins]
        known = np.isfinite(summaries) & (spread > 0)
        departures = np.where(known, summaries - self.mean[bins], 0.0) / np.where(known, spread, 1.0)
        along = departures @ self.axes
        left = np.maximum((departures**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        found = np.sqrt((along**2 / self.variance).sum(axis=1) + left / self.rest)
        return np.asarray(np.where(known.any(axis=1), found, np.nan))

    def novelties(self, features: NDArray[np.float32]) -> FloatArray:
        """Novelty of every morning of a season, as the share of training mornings less foreign; NaN if unknown.

        Args:
            features: shape (n_mornings, len(FEATURES)), from ``headland_edge.features.derive``, from sowing on.
        """
        return percentile(self.distances(summarise(features), np.arange(len(features))), self.novelty)

    def uncertainty(self, target: str, day: int, width: float) -> float:
        """Share of training mornings of that age with a narrower band; NaN for a target the sketch does not know."""
        if target not in self.widths:
            return math.nan
        at = min(max(day, 0) // BIN_DAYS, BINS - 1)
        return float(percentile(np.array([width]), self.widths[target][at])[0])

    def drifts(self, features: NDArray[np.float32]) -> list[Drift]:
        """Drift after every morning of a season."""
        states, state = [], Drift()
        for novelty in self.novelties(features).tolist():
            state = state.next(novelty, self.limits)
            states.append(state)
        return states

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "mean": _plain(self.mean),
            "spread": _plain(self.spread),
            "axes": _plain(self.axes),
            "variance": _plain(self.variance),
            "rest": _short(self.rest),
            "novelty": _plain(self.novelty),
            "widths": {target: _plain(values) for target, values in sorted(self.widths.items())},
            "limits": {"start": _short(self.limits.start), "over": _short(self.limits.over)},
        }


Sketch = Mapping[str, CropSketch]
"""By crop."""


def summarise(features: NDArray[np.float32]) -> FloatArray:
    """Summaries of a season's mornings, row ``k`` from mornings up to ``k`` only.

    Args:
        features: shape (n_mornings, len(FEATURES)), from sowing on.

    Returns:
        Shape (n_mornings, len(SUMMARY)), NaN where no sensor was read in time.
    """
    values = features.astype(np.float64)
    seen = values[:, _SEEN_AT] > 0.5
    sums = _trailing(np.where(seen, values[:, _TRAILING_AT], 0.0))
    counts = _trailing(seen.astype(np.float64))
    means = np.where(counts > 0.5, sums / np.maximum(counts, 1.0), np.nan)
    return np.column_stack([means, _last_known(values[:, _AT["taw_mm"]]), values[:, _LATEST_AT]])


def percentile(values: FloatArray, quantiles: FloatArray) -> FloatArray:
    """Shares of training below each value, from quantiles at ``LEVELS``; NaN stays NaN."""
    return np.asarray(np.where(np.isnan(values), np.nan, np.interp(values, quantiles, LEVELS)))


def surprise(novelty: float | FloatArray) -> FloatArray:
    """A percentile as a share, on a scale on which the last hundredth counts: 0 to ``MOST_SURPRISE``."""
    return np.asarray(np.minimum(-np.log10(np.maximum(1.0 - np.asarray(novelty), _LEAST_CHANCE)), MOST_SURPRISE))


def sketch_bytes(crops: Sketch) -> bytes:
    """Canonical JSON: sorted keys, no spaces, a final newline; four digits of each number."""
    plain = {"version": VERSION, "summary": SUMMARY, "crops": {crop: each.to_dict() for crop, each in crops.items()}}
    return (json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def parse_sketch(data: bytes) -> dict[str, CropSketch]:
    """Parse and check a sketch.

    Raises:
        SketchError: too large, not JSON, another version, or a key missing, unknown, of the wrong shape or range.
    """
    if len(data) > MAX_BYTES:
        raise SketchError(f"{len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        plain = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise SketchError(f"not valid JSON: {error}") from None
    _keys(plain, ("version", "summary", "crops"), "sketch")
    if plain["version"] != VERSION or plain["summary"] != list(SUMMARY):
        raise SketchError(f"version: this headland-edge reads version {VERSION} over {', '.join(SUMMARY)}")
    crops = plain["crops"]
    if not isinstance(crops, dict) or not crops or not set(crops) <= set(CROPS):
        raise SketchError(f"crops: must be some of {', '.join(CROPS)}")
    return {crop: _crop(value, f"crops.{crop}") for crop, value in crops.items()}


def _crop(plain: object, where: str) -> CropSketch:
    keys = ("mean", "spread", "axes", "variance", "rest", "novelty", "widths", "limits")
    read = _keys(plain, keys, where)
    axes = _array(read["axes"], (len(SUMMARY), None), f"{where}.axes")
    widths = _keys(read["widths"], None, f"{where}.widths")
    limits = _keys(read["limits"], _LIMITS, f"{where}.limits")
    made = CropSketch(
        mean=_array(read["mean"], (BINS, len(SUMMARY)), f"{where}.mean"),
        spread=_array(read["spread"], (BINS, len(SUMMARY)), f"{where}.spread", least=0.0),
        axes=axes,
        variance=_array(read["variance"], (axes.shape[1],), f"{where}.variance", least=1e-6),
        rest=float(_array(read["rest"], (), f"{where}.rest", least=1e-6)),
        novelty=_ascending(_array(read["novelty"], (len(LEVELS),), f"{where}.novelty", least=0.0), f"{where}.novelty"),
        widths={
            target: _ascending(_array(value, (BINS, len(LEVELS)), f"{where}.widths.{target}"), f"{where}.widths")
            for target, value in widths.items()
        },
        limits=Limits(*(float(_array(limits[key], (), f"{where}.limits.{key}", least=0.0)) for key in _LIMITS)),
    )
    if not made.limits.over < made.limits.start < MOST_SURPRISE:
        raise SketchError(f"{where}.limits: must be over < start < {MOST_SURPRISE:g}")
    return made


def _keys(plain: object, expected: Iterable[str] | None, where: str) -> dict[str, Any]:
    if not isinstance(plain, dict) or (expected is not None and set(plain) != set(expected)):
        wanted = "an object" if expected is None else f"an object with exactly {', '.join(expected)}"
        raise SketchError(f"{where}: must be {wanted}")
    return plain


def _array(plain: object, shape: tuple[int | None, ...], where: str, least: float = -math.inf) -> FloatArray:
    """A finite array of that shape; None stands for at least one."""
    try:
        found = np.array(plain, np.float64) if _is_numbers(plain) else np.empty((0,) * 9)
    except (ValueError, OverflowError):
        found = np.empty((0,) * 9)
    fits = found.ndim == len(shape) and all(
        have == want if want is not None else 1 <= have <= len(SUMMARY)
        for have, want in zip(found.shape, shape, strict=False)
    )
    if not fits or not np.isfinite(found).all() or not (found >= least).all() or not (np.abs(found) <= 1e9).all():
        raise SketchError(f"{where}: must hold finite numbers of shape {list(shape)}, at least {least:g}")
    return found


def _is_numbers(plain: object) -> bool:
    if isinstance(plain, list):
        return all(_is_numbers(each) for each in plain)
    return isinstance(plain, int | float) and not isinstance(plain, bool)


def _ascending(values: FloatArray, where: str) -> FloatArray:
    if (np.diff(values, axis=-1) < 0).any():
        raise SketchError(f"{where}: quantiles must ascend")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _trailing(values: FloatArray) -> FloatArray:
    """Sums over the last ``TRAILING_MORNINGS`` rows."""
    totals = np.cumsum(values, axis=0)
    totals[TRAILING_MORNINGS:] -= totals[:-TRAILING_MORNINGS].copy()
    return totals


def _last_known(values: FloatArray) -> FloatArray:
    """The latest value above 0, NaN before the first."""
    latest = np.maximum.accumulate(np.where(values > 0, np.arange(len(values)), -1))
    return np.asarray(np.where(latest >= 0, values[np.maximum(latest, 0)], np.nan))


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _plain(values: FloatArray) -> list[Any]:
    short = np.array([_short(value) for value in values.ravel().tolist()]).reshape(values.shape)
    nested: list[Any] = short.tolist()
    return nested
