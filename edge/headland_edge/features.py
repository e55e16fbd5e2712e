"""Features: what a net sees of the records, derived by the same code in the cloud and on the device.

Every row depends on its own and earlier mornings only, and comes out the same, bit for bit, whether it is
derived from the records up to that morning or from the whole season: running totals are sequential float64
sums, cast to float32 at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headland_edge.records import COLUMN_INFO, COLUMNS, Records

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

FEATURES_VERSION = 2
"""Raised with any change of FEATURES or of how they are derived; a bundle fits one version."""

GDD_BASE_C = {"wheat": 0.0, "maize": 8.0}
"""Temperature below which the crop does not develop."""
_UNKNOWN_MEAN_C = 15.0
"""Daily mean temperature assumed before the first one was seen."""


@dataclass(frozen=True)
class Feature:
    """One channel: the quantity in ``unit``, divided by ``scale``."""

    name: str
    unit: str
    scale: float


# Scales bring what is usual in a season to at most about 1: one scale then serves all channels when the net's
# input is rounded to 8 bits.
_SENSED_SCALE = {
    "rain_mm": 100.0,
    "et0_mm": 10.0,
    "tmin_c": 40.0,
    "tmax_c": 40.0,
    "irrigation_mm": 60.0,
    "nitrogen_kg_ha": 100.0,
    "depletion_frac": 1.0,
    "taw_mm": 500.0,
    "soil_mineral_n_kg_ha": 150.0,
    "lai": 7.0,
}
_SEEN = {
    "weather_seen": ("rain_mm", "et0_mm", "tmin_c", "tmax_c"),
    "depletion_seen": ("depletion_frac",),
    "soil_mineral_n_seen": ("soil_mineral_n_kg_ha",),
    "lai_seen": ("lai",),
}
_TOTALS = {
    "rain_mm": Feature("rain_total_mm", "mm", 600.0),
    "et0_mm": Feature("et0_total_mm", "mm", 900.0),
    "irrigation_mm": Feature("irrigation_total_mm", "mm", 600.0),
    "nitrogen_kg_ha": Feature("nitrogen_total_kg_ha", "kg/ha", 250.0),
}

FEATURES: tuple[Feature, ...] = (
    *(Feature(name, COLUMN_INFO[name].unit, _SENSED_SCALE[name]) for name in COLUMNS),
    *(Feature(name, "1", 1.0) for name in _SEEN),
    *_TOTALS.values(),
    Feature("growing_degree_days_c_d", "C d", 2500.0),
    Feature("days_after_sowing", "d", 150.0),
    Feature("is_wheat", "1", 1.0),
    Feature("grown", "1", 1.0),
)

_AT = {feature.name: index for index, feature in enumerate(FEATURES)}
_SCALES = np.array([feature.scale for feature in FEATURES])
_LOW = np.array([COLUMN_INFO[name].low for name in COLUMNS])
_HIGH = np.array([COLUMN_INFO[name].high for name in COLUMNS])
_TOTAL_COLUMNS = np.array([COLUMNS.index(name) for name in _TOTALS])
_SEEN_COLUMNS = [(_AT[name], np.array([COLUMNS.index(c) for c in columns])) for name, columns in _SEEN.items()]
_TOTALS_AT = slice(_AT["rain_total_mm"], _AT["nitrogen_total_kg_ha"] + 1)
_WARMTH = [COLUMNS.index("tmin_c"), COLUMNS.index("tmax_c")]


def clean(records: Records) -> tuple[Records, tuple[str, ...]]:
    """Turn readings outside their plausible range into missing ones.

    Returns:
        The records (the same object when nothing was wrong) and one sentence for each faulty column.
    """
    faulty = ~(_plausible(records.values) | np.isnan(records.values))
    if not faulty.any():
        return records, ()
    problems = []
    for index in np.flatnonzero(faulty.any(axis=0)):
        column = COLUMN_INFO[COLUMNS[index]]
        mornings = np.flatnonzero(faulty[:, index])
        last = int(mornings[-1])
        problems.append(
            f"{column.name}: {mornings.size} reading(s) outside {column.low:g} to {column.high:g} {column.unit} "
            f"treated as missing, the last {records.values[last, index]:g} on {records.date_of(last)}"
        )
    values = np.where(faulty, np.nan, records.values)
    return Records(records.crop, records.sowing_date, values), tuple(problems)


def derive(records: Records) -> Float32Array:
    """Derive the features of every morning.

    A reading that is missing or out of its plausible range counts as 0 with its mask 0. Totals run from
    sowing: the weather of the day before sowing, in row 0, is not counted.

    Returns:
        Shape (n_mornings, len(FEATURES)), never NaN, row ``k`` from rows up to ``k`` only.
    """
    return derive_many(records.crop, records.values)


def derive_many(crop: str, values: FloatArray) -> Float32Array:
    """``derive`` for many fields of one crop at once, bit for bit the same.

    Args:
        crop: maize or wheat.
        values: shape (..., n_mornings, len(COLUMNS)).

    Returns:
        Shape (..., n_mornings, len(FEATURES)).
    """
    seen = _plausible(values)
    filled = np.where(seen, values, 0.0)
    out = np.empty((*values.shape[:-1], len(FEATURES)))
    out[..., : len(COLUMNS)] = filled
    for channel, columns in _SEEN_COLUMNS:
        out[..., channel] = seen[..., columns].all(axis=-1)
    totals = filled[..., _TOTAL_COLUMNS]
    totals[..., 0, :] = 0.0
    np.cumsum(totals, axis=-2, out=out[..., _TOTALS_AT])
    out[..., _AT["growing_degree_days_c_d"]] = _degree_days(values[..., _WARMTH], seen[..., _WARMTH], GDD_BASE_C[crop])
    out[..., _AT["days_after_sowing"]] = np.arange(values.shape[-2])
    out[..., _AT["is_wheat"]] = crop == "wheat"
    out[..., _AT["grown"]] = 1.0
    out /= _SCALES
    return out.astype(np.float32)


def gdd(records: Records) -> FloatArray:
    """Growing degree days since sowing, C d, known on each morning; shape (n_mornings,), never NaN.

    Daily mean temperature above the crop's base (0 C wheat, 8 C maize) by the averaging method of McMaster and
    Wilhelm (1997). A day without both temperatures takes the last mean seen, 15 C before any.
    """
    return gdd_of_many(records.crop, records.values)


def gdd_of_many(crop: str, values: FloatArray) -> FloatArray:
    """``gdd`` for many fields of one crop at once; shape (..., n_mornings, len(COLUMNS)) to (..., n_mornings)."""
    pair = values[..., _WARMTH]
    return _degree_days(pair, (pair >= _LOW[_WARMTH]) & (pair <= _HIGH[_WARMTH]), GDD_BASE_C[crop])


def plausible(values: FloatArray) -> FloatArray:
    """``clean`` for many fields at once: shape (..., len(COLUMNS)), NaN where a value is out of range."""
    return np.asarray(np.where(_plausible(values), values, np.nan))


def window(features: Float32Array, end: int, length: int) -> Float32Array:
    """History of ``length`` mornings up to and including ``end``, as the nets take it.

    Args:
        features: shape (n_mornings, C), from ``derive``.
        end: row of the last morning.
        length: number of mornings.

    Returns:
        Shape (C, length), contiguous, zeros before sowing.

    Raises:
        IndexError: ``end`` is not a row of ``features``.
    """
    if not 0 <= end < len(features):
        raise IndexError(f"morning {end} is not among {len(features)} mornings")
    out = np.zeros((features.shape[1], length), np.float32)
    known = min(end + 1, length)
    out[:, length - known :] = features[end + 1 - known : end + 1].T
    return out


def _plausible(values: FloatArray) -> BoolArray:
    """True where a value is present and in range; NaN compares false."""
    return np.asarray((values >= _LOW) & (values <= _HIGH))


def _degree_days(pair: FloatArray, seen: BoolArray, base_c: float) -> FloatArray:
    """Running sum from tmin and tmax, shape (..., n_mornings, 2), of what was seen of them."""
    both = seen.all(axis=-1)
    latest = np.maximum.accumulate(np.where(both, np.arange(both.shape[-1]), -1), axis=-1)
    mean_c = np.where(seen, pair, 0.0).sum(axis=-1) * 0.5
    known = np.take_along_axis(mean_c, np.maximum(latest, 0), axis=-1)
    daily = np.maximum(np.where(latest >= 0, known, _UNKNOWN_MEAN_C) - base_c, 0.0)
    daily[..., 0] = 0.0
    return np.asarray(np.cumsum(daily, axis=-1))
