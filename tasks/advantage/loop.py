"""Seasons farmed as devices would farm them, many fields at once: what is measured, what is thought, what is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from headland_edge.advantage import Belief, choose, foreign, inputs_of
from headland_edge.features import Float32Array, derive_many
from headland_edge.records import COLUMNS
from headland_edge.rules import Rule, SplitRule
from numpy.typing import NDArray

from tasks.advantage.estimates import Estimator
from tasks.advantage.worlds import World
from tasks.crops.interface import BoolArray, CropBatch, Decision, FloatArray, Harvest, open_batch
from tasks.crops.sensors import SensorBank
from tasks.params import Sensors
from tasks.policies.growers import due_splits
from tasks.policies.many import irrigation_doses_mm, nitrogen_doses_kg_ha

Gains = Callable[[Float32Array], NDArray[np.float32]]
"""Inputs of shape (n, n inputs) to gains in USD/ha, (n, n doses)."""
_AT = {name: COLUMNS.index(name) for name in COLUMNS}


@dataclass(frozen=True)
class Morning:
    """What a device knows of every field on a morning of decisions, before it decides."""

    day: int
    asked: BoolArray
    """Fields for which a dose is to be decided."""
    inputs: Float32Array
    rule_dose: FloatArray
    past_threshold: FloatArray
    split: NDArray[np.int64]
    """Number of the nitrogen split that is due, -1 for none."""


@dataclass(frozen=True)
class Believed:
    """A net and how far it is believed."""

    gains: Gains
    belief: Belief


@dataclass(frozen=True)
class Device:
    """How fields are farmed."""

    rule: Rule
    estimator: Estimator
    sensors: Sensors
    seed: int
    believed: Believed | None = None
    explore_frac: float = 0.0
    """Share of decisions that are drawn from the net's doses instead."""
    doses: tuple[float, ...] = ()


def farm_as_devices(world: World, device: Device, watch: Callable[[CropBatch, Morning], None] | None = None) -> Harvest:
    """Farm every field of ``world`` to the end of its season; ``watch`` sees each morning before the dose is given."""
    batch = open_batch(world.fields, world.weather)
    bank = SensorBank(world.fields, world.weather, device.sensors, device.seed)
    n, days = len(world), max(field.season_days for field in world.fields)
    records = np.full((n, days, len(COLUMNS)), np.nan)
    rng = np.random.default_rng(device.seed)
    yesterday: Decision | None = None
    for day in range(days):
        if batch.finished:
            break
        truth = batch.morning()
        records[:, day] = bank.read(day, truth, yesterday)
        dose = np.zeros(n)
        morning = _morning(world, device, records[:, : day + 1], truth.active)
        if morning.asked.any():
            if watch is not None:
                watch(batch, morning)
            dose = _decided(device, morning, rng)
            if not isinstance(device.rule, SplitRule) and device.rule.season_limit_mm is not None:
                applied = np.nansum(records[:, : day + 1, _AT["irrigation_mm"]], axis=1)
                dose = np.minimum(dose, np.maximum(0.0, device.rule.season_limit_mm - applied))
        dose = np.where(truth.active, dose, 0.0)
        nothing = np.zeros(n)
        yesterday = Decision(nothing, dose) if isinstance(device.rule, SplitRule) else Decision(dose, nothing)
        batch.step(yesterday)
    return batch.harvest()


def _morning(world: World, device: Device, records: FloatArray, active: BoolArray) -> Morning:
    rule, crop, day = device.rule, world.fields[0].crop, records.shape[1] - 1
    n = len(world)
    if isinstance(rule, SplitRule):
        split = due_splits(world.fields, records, [rule] * n)
        asked = active & (split >= 0)
        if not asked.any():
            return Morning(day, asked, np.zeros((n, 0), np.float32), np.zeros(n), np.zeros(n), split)
        features = derive_many(crop, records)
        known = device.estimator.quantiles(features)
        dose, past = nitrogen_doses_kg_ha(rule, split, known[:, 1]), np.zeros(n)
    else:
        asked, features, split = active, derive_many(crop, records), np.full(n, -1)
        known = device.estimator.quantiles(features)
        applied = np.nansum(records[:, :, _AT["irrigation_mm"]], axis=1)
        dose = irrigation_doses_mm(rule, day, known[:, 1], records[:, -1, _AT["taw_mm"]], applied)
        past = known[:, 1] - rule.threshold_frac(day)
    return Morning(day, asked, inputs_of(crop, features, known, dose), dose, past, split)


def _decided(device: Device, morning: Morning, rng: np.random.Generator) -> FloatArray:
    dose = morning.rule_dose
    if device.believed is not None:
        net, crop = device.believed, device.estimator.crop
        inputs = np.nan_to_num(morning.inputs)
        better, _ = choose(crop, net.belief, net.gains(inputs), dose, morning.past_threshold)
        dose = np.where(foreign(net.belief, morning.inputs).any(axis=1), dose, better)
    if device.explore_frac > 0:
        drawn = np.array(device.doses)[rng.integers(len(device.doses), size=dose.size)]
        dose = np.where(rng.random(dose.size) < device.explore_frac, drawn, dose)
    return np.asarray(np.where(morning.asked, dose, 0.0))
