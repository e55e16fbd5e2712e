"""The advantage net: where another dose than the rule's is worth more, and when to believe it.

A rule decides from the state of a field alone. From what else the season's records hold, a small net says for each of a
few doses how many USD/ha the season gains, on average over the weather that may come, if that dose is given today
instead of the rule's and the rule is followed from tomorrow on (the *advantage* of reinforcement learning, Baird 1993).
The rule's dose stands unless a gain passes ``margin_usd_ha``, and always where the net has no business:

- an input lies outside of what the net learned from, or was not measured lately;
- a dose lies out of ``reach`` of the rule. Maize: water is withheld only until the depletion is ``reach`` past the
  rule's threshold, and given only from half of ``reach`` before it, for what is given can't be taken back. Wheat: a
  dose differs by at most ``reach`` kg/ha.

The same functions serve one device's morning and a cloud's thousand fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headland_edge.features import FEATURES, Feature

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]

MAPS = ("inputs", "gains_usd_ha")
"""Names of the net's input and output."""
RECENT_MORNINGS = 7
_RAIN_MORNINGS = 3
_STATE = {"maize": ("depletion_frac", "1", 1.0), "wheat": ("n_supply_kg_ha", "kg/ha", 150.0)}
_DOSE = {"maize": ("rule_irrigation_mm", "mm", 30.0), "wheat": ("rule_nitrogen_kg_ha", "kg/ha", 100.0)}
_COMMON = (
    Feature("lai_7d", "1", 5.0),
    Feature("taw_mm", "mm", 200.0),
    Feature("days_after_sowing", "d", 140.0),
    Feature("growing_degree_days_c_d", "C d", 2000.0),
    Feature("degree_days_7d_c", "C", 20.0),
    Feature("rain_3d_mm", "mm", 50.0),
    Feature("rain_7d_mm", "mm", 80.0),
    Feature("rain_total_mm", "mm", 500.0),
    Feature("et0_7d_mm", "mm", 10.0),
    Feature("et0_total_mm", "mm", 800.0),
)
_OWN = {
    "maize": (
        Feature("depletion_mm", "mm", 150.0),
        Feature("irrigation_7d_mm", "mm", 80.0),
        Feature("irrigation_total_mm", "mm", 400.0),
    ),
    "wheat": (
        Feature("soil_depletion_frac", "1", 1.0),
        Feature("soil_mineral_n_kg_ha", "kg/ha", 100.0),
        Feature("nitrogen_total_kg_ha", "kg/ha", 200.0),
    ),
}

_AT = {feature.name: index for index, feature in enumerate(FEATURES)}
_SCALE = {feature.name: feature.scale for feature in FEATURES}


def inputs_for(crop: str) -> tuple[Feature, ...]:
    """What a net of ``crop`` is told, in order; each is divided by its scale."""
    name, unit, scale = _STATE[crop]
    return (
        Feature(name, unit, scale),
        Feature(f"{name}_band", unit, scale),
        Feature(*_DOSE[crop]),
        *_COMMON,
        *_OWN[crop],
    )


@dataclass(frozen=True)
class Belief:
    """How far a crop's net is believed."""

    doses: tuple[float, ...]
    """Doses the net speaks of, ascending: mm or kg/ha."""
    margin_usd_ha: float
    reach: float
    low: tuple[float, ...]
    """Least value of each input that the net learned from, scaled."""
    high: tuple[float, ...]


def inputs_of(crop: str, features: Float32Array, quantiles: FloatArray, rule_dose: FloatArray) -> Float32Array:
    """What the net is told of mornings.

    Args:
        crop: maize or wheat.
        features: shape (..., n_mornings, len(FEATURES)), from ``headland_edge.features``; the last row is today's.
        quantiles: shape (..., 3): the estimate of depletion (share) or nitrogen supply (kg/ha).
        rule_dose: shape (...): mm or kg/ha.

    Returns:
        Shape (..., n inputs), scaled. NaN where something was not measured in the last ``RECENT_MORNINGS``.
    """
    today = features[..., -1, :].astype(np.float64)
    recent = features[..., -RECENT_MORNINGS:, :].astype(np.float64)

    def value(name: str) -> FloatArray:
        return np.asarray(today[..., _AT[name]] * _SCALE[name])

    def total(name: str, mornings: int = RECENT_MORNINGS) -> FloatArray:
        return np.asarray(recent[..., -mornings:, _AT[name]].sum(axis=-1) * _SCALE[name])

    def mean(name: str, seen: str) -> FloatArray:
        count = recent[..., _AT[seen]].sum(axis=-1)
        return np.asarray(np.where(count > 0, total(name) / np.maximum(count, 1.0), np.nan))

    week_ago = features[..., -min(RECENT_MORNINGS + 1, features.shape[-2]), _AT["growing_degree_days_c_d"]]
    warmth = value("growing_degree_days_c_d") - week_ago.astype(np.float64) * _SCALE["growing_degree_days_c_d"]
    taw = value("taw_mm")
    own = (
        (quantiles[..., 1] * taw, total("irrigation_mm"), value("irrigation_total_mm"))
        if crop == "maize"
        else (
            mean("depletion_frac", "depletion_seen"),
            mean("soil_mineral_n_kg_ha", "soil_mineral_n_seen"),
            value("nitrogen_total_kg_ha"),
        )
    )
    columns = (
        quantiles[..., 1],
        quantiles[..., 2] - quantiles[..., 0],
        rule_dose,
        mean("lai", "lai_seen"),
        np.where(taw > 0, taw, np.nan),
        value("days_after_sowing"),
        value("growing_degree_days_c_d"),
        warmth / max(1, min(RECENT_MORNINGS, features.shape[-2] - 1)),
        total("rain_mm", _RAIN_MORNINGS),
        total("rain_mm"),
        value("rain_total_mm"),
        mean("et0_mm", "weather_seen"),
        value("et0_total_mm"),
        *own,
    )
    scales = np.array([each.scale for each in inputs_for(crop)])
    return np.asarray(np.stack([np.asarray(column) for column in columns], axis=-1) / scales, dtype=np.float32)


def foreign(belief: Belief, inputs: Float32Array) -> BoolArray:
    """Which inputs are not what the net learned from; shape of ``inputs``. What is not known is foreign."""
    low, high = np.array(belief.low), np.array(belief.high)
    return np.asarray(~((inputs >= low) & (inputs <= high)))


def choose(
    crop: str, belief: Belief, gains_usd_ha: NDArray[Any], rule_dose: FloatArray, past_threshold: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The dose of each field, where the net may speak.

    Args:
        crop: maize or wheat.
        belief: how far the net is believed.
        gains_usd_ha: shape (..., len(doses)).
        rule_dose: shape (...): what the rule gives.
        past_threshold: shape (...): depletion less the rule's threshold (maize); not used for wheat.

    Returns:
        Doses, and what each is thought to gain over the rule's, USD/ha: 0 where the rule's stands. Shape (...).
    """
    doses = np.array(belief.doses)
    more, less = doses > rule_dose[..., None], doses < rule_dose[..., None]
    if crop == "maize":
        past = past_threshold[..., None]
        allowed = ~((less & (past > belief.reach)) | (more & (past < -belief.reach / 2)))
    else:
        allowed = np.abs(doses - rule_dose[..., None]) <= belief.reach
    gains = np.where(allowed & np.isfinite(gains_usd_ha), gains_usd_ha, -np.inf)
    best = np.argmax(gains, axis=-1)
    gain = np.take_along_axis(gains, best[..., None], axis=-1)[..., 0]
    taken = gain > belief.margin_usd_ha
    return np.where(taken, doses[best], rule_dose), np.where(taken, gain, 0.0)
