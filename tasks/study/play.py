"""Seasons of the test folds, farmed by the shipped bundle through the device package, and by every baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl
from headland_edge.advisor import Advisor
from headland_edge.bundle import open_bundle
from headland_edge.rules import IrrigationRule, Rule, SplitRule

from tasks.advantage.estimates import Estimator
from tasks.advantage.loop import Device as Farmed
from tasks.advantage.loop import farm_as_devices
from tasks.advantage.worlds import World
from tasks.crops.farm import Policy, farm
from tasks.crops.interface import DailyWeather, Field, FloatArray, Harvest
from tasks.params import Params, Sensors
from tasks.policies.device import Device
from tasks.policies.growers import Splits, Threshold
from tasks.policies.money import profit_usd_ha

STANDARD_SOIL, STANDARD_WATER_FRAC, STANDARD_DAY = "SiltClayLoam", 0.7, 121


@dataclass(frozen=True)
class Scene:
    """Fields, and the sensors that see them."""

    name: str
    fields: tuple[Field, ...]
    weather: Mapping[str, DailyWeather]
    sensors: Sensors

    @property
    def world(self) -> World:
        """The same as learning sees it."""
        return World(self.fields, self.weather)


def maize_fields(
    years: Mapping[str, DailyWeather],
    season_days: int,
    soils: Sequence[str] = (STANDARD_SOIL,),
    water_frac: Sequence[float] = (STANDARD_WATER_FRAC,),
    draws: int = 1,
) -> tuple[Field, ...]:
    """A field on every soil, with every starting water, in every year; ``draws`` differ by their sensors' errors."""
    return tuple(
        Field(
            field_id=f"{key}-{soil}-{water:g}-{draw}",
            crop="maize",
            site=key,
            season=weather.first_day.year,
            soil=soil,
            sowing_date=date(weather.first_day.year, 1, 1) + timedelta(days=STANDARD_DAY - 1),
            season_days=season_days,
            initial_water_frac=water,
        )
        for key, weather in years.items()
        for soil in soils
        for water in water_frac
        for draw in range(draws)
    )


WHEAT_GROUNDS = ((20.0, 0.1), (35.0, 0.25), (50.0, 0.4), (70.0, 0.6))
"""Mineral nitrogen at emergence, kg/ha, and what the soil mineralises, kg/ha/d: poor to rich."""
WHEAT_DAY = 90


def wheat_fields(
    years: Mapping[str, DailyWeather], season_days: int, soils: Sequence[str], name: str = ""
) -> tuple[Field, ...]:
    """A rain-fed field on every soil and ground in every year; another name gives other errors of sensors."""
    return tuple(
        Field(
            field_id=f"{name}{key}-{soil}-{mineral:g}-0",
            crop="wheat",
            site=key,
            season=weather.first_day.year,
            soil=soil,
            sowing_date=date(weather.first_day.year, 1, 1) + timedelta(days=WHEAT_DAY - 1),
            season_days=season_days,
            initial_water_frac=0.9,
            mineral_n_kg_ha=mineral,
            mineralisation_kg_ha_d=mineralisation,
        )
        for key, weather in years.items()
        for soil in soils
        for mineral, mineralisation in WHEAT_GROUNDS
    )


def scaled(sensors: Sensors, factor: float) -> Sensors:
    """The same sensors with ``factor`` times the noise and drift."""
    return sensors.model_copy(
        update={
            name: getattr(sensors, name).model_copy(
                update={
                    "noise": factor * getattr(sensors, name).noise,
                    "drift_per_day": factor * getattr(sensors, name).drift_per_day,
                }
            )
            for name in type(sensors).model_fields
            if name != "dropout"
        }
    )


def by_device(bundle: Path, scene: Scene, seed: int) -> Harvest:
    """Every field advised by the bundle through the device package."""
    return _farmed(scene, Device(Advisor(open_bundle(bundle))), seed)


def by_readings(rule: Rule, scene: Scene, seed: int) -> Harvest:
    """Every field by ``rule`` on its raw readings."""
    policy: Policy = Splits([rule]) if isinstance(rule, SplitRule) else Threshold([rule])
    return _farmed(scene, policy, seed)


def by_estimates(rule: IrrigationRule, estimator: Estimator, scene: Scene, seed: int) -> Harvest:
    """Every field by ``rule`` on what the net estimates of it: the same sensors and the same filter as the device's."""
    return farm_as_devices(scene.world, Farmed(rule, estimator, scene.sensors, seed))


def _farmed(scene: Scene, policy: Policy, seed: int) -> Harvest:
    return farm(scene.fields, scene.weather, scene.sensors, seed, policy).harvest


def rows_of(scene: Scene, policy: str, harvest: Harvest, params: Params, **said: object) -> pl.DataFrame:
    """One row a field."""
    crop, n = scene.fields[0].crop, len(scene.fields)
    return pl.DataFrame(
        {
            "scene": [scene.name] * n,
            "policy": [policy] * n,
            "site": [field.site.partition("/")[0] for field in scene.fields],
            "season": [field.season for field in scene.fields],
            "soil": [field.soil for field in scene.fields],
            "water_frac": [field.initial_water_frac for field in scene.fields],
            "field_id": [field.field_id for field in scene.fields],
            "profit_usd_ha": profit_usd_ha(crop, harvest, params.prices),
            "yield_t_ha": harvest.yield_t_ha,
            "irrigation_mm": harvest.irrigation_mm,
            "nitrogen_kg_ha": harvest.nitrogen_kg_ha,
            **{name: [value] * n for name, value in said.items()},
        }
    )


def doses_given(rule: IrrigationRule, scene: Scene, truth: Callable[[Sensors], Sensors], seed: int) -> FloatArray:
    """Daily depths that ``rule`` gives when it knows the truth, shape (n_fields, days): a start for hindsight."""
    log = farm(scene.fields, scene.weather, truth(scene.sensors), seed, Threshold([rule]))
    return log.irrigation_mm
