"""Policies that decide from the same noisy morning records: the baselines a model must hold its own against."""

from __future__ import annotations

import numpy as np
from headland_edge.advisor import LAST_MORNINGS
from headland_edge.features import gdd_of_many, plausible
from headland_edge.records import COLUMNS
from headland_edge.rules import IrrigationRule, SplitRule
from numpy.typing import NDArray

from tasks.crops.interface import BoolArray, Decision, Field, FloatArray
from tasks.policies.many import irrigation_doses_mm

IntArray = NDArray[np.int64]
_AT = {name: COLUMNS.index(name) for name in COLUMNS}


def last_seen(readings: FloatArray) -> FloatArray:
    """Latest value that is not NaN, NaN where there is none; shape (n_fields, n_mornings) to (n_fields,)."""
    seen = ~np.isnan(readings)
    latest = readings.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    return np.asarray(np.where(seen.any(axis=1), readings[np.arange(readings.shape[0]), latest], np.nan))


class Nothing:
    """Rain-fed, unfertilised."""

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Apply nothing."""
        nothing = np.zeros(len(fields))
        return Decision(nothing, nothing)


class Weekly:
    """A fixed irrigation calendar: the same depth every seventh day while the crop needs most."""

    FIRST_DAY, LAST_DAY = 35, 112

    def __init__(self, depth_mm: float = 25.0) -> None:
        """Take the depth of each irrigation, mm."""
        self._depth_mm = depth_mm

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Irrigate on days 35, 42 … 112 after sowing: from a closing canopy to senescence."""
        day = records.shape[1] - 1
        due = self.FIRST_DAY <= day <= self.LAST_DAY and (day - self.FIRST_DAY) % 7 == 0
        return Decision(np.full(len(fields), self._depth_mm if due else 0.0), np.zeros(len(fields)))


class Threshold:
    """A four-stage depletion threshold on the probe; each field may have a rule of its own.

    While the probe is out, its last reading is carried on by the same water balance that a device falls back to, so
    that the baseline does not irrigate blindly.
    """

    def __init__(self, rules: list[IrrigationRule]) -> None:
        """Take one rule for each field, or a single one for all."""
        self._places = _places(rules)

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Refill when the depletion is past the stage's threshold; wait while there has been no reading."""
        day = records.shape[1] - 1
        depletion = carried_depletion(fields, records, active)
        taw = last_seen(records[:, :, _AT["taw_mm"]])
        applied = np.nansum(records[:, :, _AT["irrigation_mm"]], axis=1)
        amount = np.zeros(len(fields))
        for rule, at in self._places:
            amount[at] = irrigation_doses_mm(rule, day, depletion[at], taw[at], applied[at])
        return Decision(np.where(active, amount, 0.0), np.zeros(len(fields)))


def _places(rules: list[IrrigationRule]) -> list[tuple[IrrigationRule, slice | IntArray]]:
    """Each different rule and the fields that follow it."""
    if len(rules) == 1:
        return [(rules[0], slice(None))]
    found: dict[int, list[int]] = {}
    for i, rule in enumerate(rules):
        found.setdefault(id(rule), []).append(i)
    return [(rules[at[0]], np.array(at)) for at in found.values()]


def carried_depletion(fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> FloatArray:
    """This morning's depletion on each field: the reading, or the last one carried on; NaN where none can be.

    What ``headland_edge.readings.carry_depletion`` says of one field, for many at once.
    """
    depletion = records[:, -1, _AT["depletion_frac"]].copy()
    out = np.flatnonzero(np.isnan(depletion) & active)
    if out.size:
        depletion[out] = _carried(plausible(records[out]))
    return depletion


def _carried(values: FloatArray) -> FloatArray:
    """Depletion this morning on fields whose probe is out; shape (n_fields, n_mornings, len(COLUMNS))."""
    today, mornings = values.shape[1] - 1, np.arange(values.shape[1])
    column = {name: values[:, :, _AT[name]] for name in ("depletion_frac", "et0_mm", "rain_mm", "irrigation_mm")}
    taw_mm, et0 = last_seen(values[:, :, _AT["taw_mm"]]), column["et0_mm"]
    read = np.where(np.isnan(column["depletion_frac"]), -1, mornings).max(axis=1)
    before = np.maximum.accumulate(np.where(np.isnan(et0), -1, mornings), axis=1)
    nearest = np.where(before >= 0, before, np.argmax(~np.isnan(et0), axis=1)[:, None])
    loss = np.take_along_axis(et0, nearest, axis=1)
    gain = [np.nan_to_num(column[name]) for name in ("rain_mm", "irrigation_mm")]
    depletion_mm = np.take_along_axis(column["depletion_frac"], np.maximum(read, 0)[:, None], axis=1)[:, 0] * taw_mm
    for day in range(int(read.min()) + 1, today + 1):
        carried = np.clip(depletion_mm + (loss[:, day] - gain[0][:, day] - gain[1][:, day]), 0.0, taw_mm)
        depletion_mm = np.where(day > read, carried, depletion_mm)
    known = (read >= 0) & (before[:, -1] > today - LAST_MORNINGS)
    return np.asarray(np.where(known, depletion_mm / taw_mm, np.nan))


class Splits:
    """Nitrogen at the split dates, from the latest soil test; a rule with slope 0 gives fixed doses."""

    def __init__(self, rules: list[SplitRule]) -> None:
        """Take one rule for each field, or a single one for all."""
        self._rules = rules

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Dose the fields whose split date is this morning; a test that never came counts as no supply."""
        rules = self._rules * len(fields) if len(self._rules) == 1 else self._rules
        due = due_splits(fields, records, rules)
        dose = np.zeros(len(fields))
        chosen = np.flatnonzero((due >= 0) & active)
        if chosen.size:
            supply = np.nan_to_num(self.supply_kg_ha(fields, records), nan=0.0)
            for i in chosen:
                dose[i] = rules[i].dose_kg_ha(int(due[i]), float(supply[i]))
        return Decision(np.zeros(len(fields)), dose)

    def supply_kg_ha(self, fields: tuple[Field, ...], records: FloatArray) -> FloatArray:
        """What the rule takes for the soil's supply: the latest soil test."""
        return last_seen(records[:, :, _AT["soil_mineral_n_kg_ha"]])


def due_splits(fields: tuple[Field, ...], records: FloatArray, rules: list[SplitRule]) -> IntArray:
    """Which split is due this morning on each field, -1 for none: ``SplitRule.due_split`` for many fields at once."""
    today = records.shape[1] - 1
    known = gdd_of_many(fields[0].crop, records)
    before = known[:, today - 1] if today else np.full(len(fields), -np.inf)
    dates = np.array([rule.split_gdd for rule in rules])
    due = np.full(len(fields), -1)
    for split in range(dates.shape[1] - 1, 0, -1):
        due[(before < dates[:, split]) & (dates[:, split] <= known[:, today])] = split
    due[np.ceil(dates[:, 0]) == today] = 0
    return due
