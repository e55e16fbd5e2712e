"""What knowing more would earn: a planner that knows a field's true state and the climate, and perhaps a forecast.

It is no policy that ships: no device sees the truth or has a crop simulator. It says what is left to gain. A net that
learned everything there is to learn from rollouts would do as the planner does; beyond it, only who knows the weather.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from headland_edge.rules import IrrigationRule
from numpy.typing import NDArray

from tasks.advantage.rollouts import gains_usd_ha
from tasks.advantage.worlds import DAILY, Ahead, Futures
from tasks.crops.fields import field_rng
from tasks.crops.interface import CropBatch, DailyWeather, Decision, Field, FloatArray, Harvest, open_batch
from tasks.params import Params
from tasks.policies.many import irrigation_doses_mm

DOSES_MM = (0.0, 10.0, 20.0, 30.0)
"""What is tried each morning, besides the rule's dose."""
_LEAST_USD_HA = 0.25
"""A gain below this is nothing."""


@dataclass(frozen=True)
class Forecast:
    """A forecast with a modelled error; it is not made from an archive of real ones.

    A member of it has the weather to come until the first day that is missed, and some other year's from there on. What
    is issued goes wrong by the same chance, so that as much of it comes true as the members' agreement says.
    """

    days: int
    """How far it reaches, today included."""
    kept_frac: float
    """Chance that a day is right if all days before it were; 1: the forecast is never wrong."""


def by_truth(
    fields: tuple[Field, ...], weather: Mapping[str, DailyWeather], rule: IrrigationRule
) -> tuple[FloatArray, Harvest]:
    """Every field by ``rule`` on its true state; daily depths, shape (n_fields, days), and the harvest."""
    batch = open_batch(fields, weather)
    given: list[FloatArray] = []
    while not batch.finished:
        given.append(_rule_mm(batch, rule, len(given)))
        batch.step(Decision(given[-1], np.zeros(len(fields))))
    return np.stack(given, axis=1), batch.harvest()


def planned(
    fields: tuple[Field, ...],
    weather: Mapping[str, DailyWeather],
    climate: Mapping[str, DailyWeather],
    rule: IrrigationRule,
    params: Params,
    forecast: Forecast | None = None,
) -> Harvest:
    """Each morning the dose that pays most on average, the rule deciding from tomorrow on.

    Args:
        fields: of maize.
        weather: of the seasons they live in, by site; only ``forecast`` reads ahead in it.
        climate: years that are known, each of them a season that may come.
        rule: to live on with, and its limit of water.
        params: prices, and the range of sowing days.
        forecast: what is known of the days to come; nothing if None.
    """
    batch, nothing, day = open_batch(fields, weather), np.zeros(len(fields)), 0
    futures: Ahead = Futures("maize", climate, params)
    while not batch.finished:
        dose = _rule_mm(batch, rule, day)
        rows = np.flatnonzero(batch.morning().active)
        if forecast is not None:
            futures = Foreseen(fields, weather, climate, day, forecast, field_rng(params.seed, "forecast", day))
        gains = gains_usd_ha(
            batch,
            rows,
            day,
            dose[rows],
            np.full(len(fields), -1),
            DOSES_MM,
            rule,
            futures,
            len(climate),
            params.prices,
            field_rng(params.seed, "planner", day),
        )
        best = gains.argmax(axis=1)
        better = gains[np.arange(rows.size), best] > _LEAST_USD_HA
        dose[rows] = np.where(better, np.array(DOSES_MM)[best], dose[rows])
        if rule.season_limit_mm is not None:
            dose = np.minimum(dose, np.maximum(0.0, rule.season_limit_mm - batch.harvest().irrigation_mm))
        batch.step(Decision(dose, nothing))
        day += 1
    return batch.harvest()


def _rule_mm(batch: CropBatch, rule: IrrigationRule, day: int) -> FloatArray:
    morning = batch.morning()
    dose = irrigation_doses_mm(rule, day, morning.depletion_frac, morning.taw_mm, batch.harvest().irrigation_mm)
    return np.asarray(np.where(morning.active, dose, 0.0))


class Foreseen:
    """Seasons that may come after a morning with a forecast: known years, with its days in them; see ``Ahead``."""

    def __init__(
        self,
        fields: Sequence[Field],
        weather: Mapping[str, DailyWeather],
        climate: Mapping[str, DailyWeather],
        day: int,
        forecast: Forecast,
        rng: np.random.Generator,
    ) -> None:
        """Draw what is issued for each field's season, and members that follow it as far as they believe it."""
        self._block = {field.field_id: i for i, field in enumerate(fields)}
        self._years = len(climate)
        keys, found, own = list(climate), dict[str, DailyWeather](), list[Field]()
        for field in fields:
            at = (field.sowing_date - weather[field.site].first_day).days + day
            issued = _spliced(
                climate[keys[int(rng.integers(len(keys)))]], weather[field.site], at, _right_days(forecast, rng)
            )
            for key in keys:
                name = f"{field.field_id}/{key}"
                member = _spliced(climate[key], issued, at, _right_days(forecast, rng))
                found[name] = replace(member, site=name)
                sown = member.first_day + (field.sowing_date - weather[field.site].first_day)
                own.append(replace(field, field_id=name, site=name, season=member.first_day.year, sowing_date=sown))
        self.batch: CropBatch = open_batch(tuple(own), found)

    def rows(self, fields: Sequence[Field], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """For each field ``count`` different futures; see ``Ahead``."""
        drawn = np.argsort(rng.random((len(fields), self._years)), axis=1)[:, : min(count, self._years)]
        block = np.array([self._block[field.field_id] for field in fields])
        return np.asarray(block[:, None] * self._years + drawn, dtype=np.int64)


def _right_days(forecast: Forecast, rng: np.random.Generator) -> int:
    """Days until the first that is missed."""
    return int(np.cumprod(rng.random(forecast.days) < forecast.kept_frac).sum())


def _spliced(year: DailyWeather, other: DailyWeather, at: int, days: int) -> DailyWeather:
    """``year`` with ``days`` days of ``other`` from index ``at`` on."""
    last = min(at + days, year.rain_mm.size, other.rain_mm.size)
    columns = {}
    for name in DAILY:
        columns[name] = getattr(year, name).copy()
        columns[name][at:last] = getattr(other, name)[at:last]
    return replace(year, **columns)
