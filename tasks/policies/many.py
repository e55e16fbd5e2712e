"""Rules for many fields at once: the same doses as the rule gives one field, held to it in tests."""

from __future__ import annotations

import numpy as np
from headland_edge.rules import IrrigationRule, SplitRule
from numpy.typing import NDArray

from tasks.crops.interface import FloatArray


def irrigation_doses_mm(
    rule: IrrigationRule, day: int, depletion_frac: FloatArray, taw_mm: FloatArray, applied_mm: FloatArray
) -> FloatArray:
    """``rule.irrigation_mm`` of every field; shapes (n,). Where depletion or water is not known nothing is given."""
    share = getattr(rule, "refill_frac", 1.0)
    left_mm = np.inf if rule.season_limit_mm is None else np.maximum(0.0, rule.season_limit_mm - applied_mm)
    known = np.isfinite(depletion_frac * taw_mm)
    refill_mm = np.where(known, share * depletion_frac * taw_mm, 0.0)
    amount = np.minimum(np.minimum(rule.max_irrigation_mm, refill_mm), left_mm)
    due = known & (depletion_frac > rule.threshold_frac(day)) & (amount > 0) & (amount >= rule.min_irrigation_mm)
    return np.where(due, amount, 0.0)


def nitrogen_doses_kg_ha(rule: SplitRule, split: NDArray[np.int64], supply_kg_ha: FloatArray) -> FloatArray:
    """``rule.dose_kg_ha`` of every field whose ``split`` is not negative, 0 elsewhere; shapes (n,)."""
    at = np.maximum(split, 0)
    base, slope = np.array(rule.base_kg_ha)[at], np.array(rule.slope)[at]
    dose = np.clip(base - slope * supply_kg_ha, 0.0, rule.max_dose_kg_ha)
    return np.where((split >= 0) & np.isfinite(supply_kg_ha), dose, 0.0)
