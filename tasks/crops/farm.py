"""Farm a batch of fields through one season: morning, sensors, a policy's decision, the day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from headland_edge.records import COLUMNS

from tasks.crops.interface import BoolArray, DailyWeather, Decision, Field, FloatArray, Harvest, Morning, open_batch
from tasks.crops.sensors import SensorBank
from tasks.params import Sensors

TRUTHS = ("depletion_frac", "taw_mm", "lai", "soil_mineral_n_kg_ha", "n_supply_kg_ha", "biomass_t_ha")


class Policy(Protocol):
    """Decides from records alone; it never sees the truth."""

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Decide for today.

        Args:
            fields: the batch.
            records: shape (n_fields, n_mornings, len(COLUMNS)), this morning last.
            active: shape (n_fields,); values decided for other fields are ignored.
        """


@dataclass(frozen=True)
class SeasonLog:
    """What was seen, true and done on each field; days after sowing along axis 1."""

    fields: tuple[Field, ...]
    records: FloatArray
    """Shape (n_fields, days, len(COLUMNS)): what the devices saw."""
    truth: dict[str, FloatArray]
    """By name in TRUTHS, shape (n_fields, days)."""
    irrigation_mm: FloatArray
    nitrogen_kg_ha: FloatArray
    active: BoolArray
    harvest: Harvest


def farm(
    fields: tuple[Field, ...], weather: Mapping[str, DailyWeather], sensors: Sensors, seed: int, policy: Policy
) -> SeasonLog:
    """Farm ``fields`` of one crop to the end of their season under ``policy``."""
    batch = open_batch(fields, weather)
    bank = SensorBank(fields, weather, sensors, seed)
    days, n = max(field.season_days for field in fields), len(fields)
    records = np.full((n, days, len(COLUMNS)), np.nan)
    truth = {name: np.full((n, days), np.nan) for name in TRUTHS}
    done = np.zeros((2, n, days))
    active = np.zeros((n, days), dtype=bool)
    yesterday: Decision | None = None
    for day in range(days):
        if batch.finished:
            break
        morning = batch.morning()
        records[:, day] = bank.read(day, morning, yesterday)
        active[:, day] = morning.active
        for name in TRUTHS:
            truth[name][:, day] = getattr(morning, name)
        yesterday = _only_active(policy.decide(fields, records[:, : day + 1], morning.active), morning)
        done[0, :, day], done[1, :, day] = yesterday.irrigation_mm, yesterday.nitrogen_kg_ha
        batch.step(yesterday)
    return SeasonLog(fields, records, truth, done[0], done[1], active, batch.harvest())


def _only_active(decision: Decision, morning: Morning) -> Decision:
    return Decision(
        np.where(morning.active, decision.irrigation_mm, 0.0), np.where(morning.active, decision.nitrogen_kg_ha, 0.0)
    )
