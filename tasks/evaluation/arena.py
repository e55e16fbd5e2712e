"""Closed loop: every policy farms the same fields under the same noise, and the money is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from headland_edge.advisor import Advisor
from headland_edge.bundle import open_bundle
from headland_edge.manifest import CropPolicy
from headland_edge.rules import FourStageRule, SplitRule
from joblib import Parallel, delayed

from tasks.crops.farm import Policy, SeasonLog, farm
from tasks.crops.interface import Crop, DailyWeather, Field
from tasks.params import Params
from tasks.policies.device import Device
from tasks.policies.growers import Nothing, Splits, Threshold, Weekly
from tasks.policies.money import profit_usd_ha

DEVICE = "device"
STRONG = {"maize": "tuned_day_curve", "wheat": "tuned_soil_test"}
POLICY_NAMES: dict[Crop, tuple[str, ...]] = {
    "maize": ("rainfed", "weekly_25mm", "threshold_70pct", "tuned_threshold", "tuned_day_curve", DEVICE),
    "wheat": ("zero", "best_fixed", "tuned_soil_test", DEVICE),
}


@dataclass(frozen=True)
class Arena:
    """What a closed loop needs besides the fields."""

    bundle: Path
    rules: Mapping[str, CropPolicy]
    """By crop, the tuned rules that travel in the bundle."""
    params: Params
    weather: Mapping[str, DailyWeather]
    """By ``site/season``."""


def policy_of(name: str, crop: Crop, arena: Arena) -> Policy:
    """Build the policy called ``name``."""
    rules = arena.rules[crop]
    if name == DEVICE:
        return Device(Advisor(open_bundle(arena.bundle)))
    if name in ("rainfed", "zero"):
        return Nothing()
    if name == "weekly_25mm":
        return Weekly(25.0)
    rule = rules.fixed_rule if name in ("best_fixed", "tuned_threshold", "threshold_70pct") else rules.sensor_rule
    if isinstance(rule, SplitRule):
        return Splits([rule])
    if name == "tuned_day_curve" and rule is not None:
        return Threshold([rule])
    if not isinstance(rule, FourStageRule):
        raise ValueError(f"the bundle has no rule for {name} of {crop}; build it again: dvc repro bundle")
    # "70 %" in the growers' words: irrigate when less than 70 % of the available water is left.
    return Threshold([rule.with_thresholds((0.3,) * 4) if name == "threshold_70pct" else rule])


def play(name: str, fields: tuple[Field, ...], arena: Arena) -> tuple[pl.DataFrame, SeasonLog]:
    """Farm ``fields`` of one crop, site and season under one policy."""
    first = fields[0]
    weather = {first.site: arena.weather[f"{first.site}/{first.season}"]}
    policy = policy_of(name, first.crop, arena)
    log = farm(fields, weather, arena.params.sensors, arena.params.seed, policy)
    harvest = log.harvest
    frame = pl.DataFrame(
        {
            "policy": [name] * len(fields),
            "crop": [f.crop for f in fields],
            "site": [f.site for f in fields],
            "season": [f.season for f in fields],
            "field_id": [f.field_id for f in fields],
            "soil": [f.soil for f in fields],
            "profit_usd_ha": profit_usd_ha(first.crop, harvest, arena.params.prices),
            "yield_t_ha": harvest.yield_t_ha,
            "irrigation_mm": harvest.irrigation_mm,
            "nitrogen_kg_ha": harvest.nitrogen_kg_ha,
            # Alive when its season was over: what would have ripened is not known.
            "cut_off": [
                bool(not ripe and days >= field.season_days)
                for field, ripe, days in zip(fields, harvest.matured, harvest.season_days, strict=True)
            ],
            "refused_mornings": [policy.refused / len(fields) if isinstance(policy, Device) else 0.0] * len(fields),
            "fallback_mornings": [policy.fallbacks / len(fields) if isinstance(policy, Device) else 0.0] * len(fields),
        }
    )
    return frame, log


def play_all(groups: list[tuple[Field, ...]], arena: Arena) -> tuple[pl.DataFrame, dict[tuple[str, str], SeasonLog]]:
    """Every policy on every group of fields (one crop, site and season each), on all cores.

    Returns:
        One row for each policy and field, and the season logs by (policy, first field's id) of each first group
        of a crop, for a diary.
    """
    jobs = [(name, group) for group in groups for name in POLICY_NAMES[group[0].crop]]
    results = Parallel(n_jobs=-1)(delayed(play)(name, group, arena) for name, group in jobs)
    logs = {(name, group[0].field_id): log for (name, group), (_, log) in zip(jobs, results, strict=True)}
    return pl.concat([frame for frame, _ in results]), logs
