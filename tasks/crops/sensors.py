"""What the sensors of a field device make of the truth: noise, drift and dropouts, declared in params.

Every random number of a field's sensors is drawn when the bank opens, from the field's name and the seed, so
that policies compared on one field see exactly the same noise whatever they decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from headland_edge.records import COLUMNS

from tasks.crops.fields import field_rng
from tasks.crops.interface import DailyWeather, Decision, Field, FieldError, FloatArray, Morning
from tasks.params import Sensor, Sensors

_WEATHER = ("rain_mm", "et0_mm", "tmin_c", "tmax_c")
_SENSED = (*_WEATHER, "depletion_frac", "taw_mm", "soil_mineral_n_kg_ha", "lai")
_POSITION = {name: COLUMNS.index(name) for name in COLUMNS}


@dataclass(frozen=True)
class _Errors:
    """Pre-drawn errors of one column: value = truth * factor + shift, NaN where it is out; shapes (n_fields, days)."""

    factor: FloatArray
    shift: FloatArray


def _draw(field: Field, column: str, sensor: Sensor, days: int, seed: int) -> tuple[FloatArray, FloatArray]:
    rng = field_rng(seed, field.field_id, "sensor", column)
    noise = rng.normal(0.0, 1.0, days) * sensor.noise
    drift = np.cumsum(rng.normal(0.0, 1.0, days) * sensor.drift_per_day)
    survey = rng.normal(0.0, 1.0) * sensor.survey_error
    error = noise + drift
    if sensor.relative:
        return (1.0 + survey) * (1.0 + error), np.zeros(days)
    return np.ones(days), error


def _outages(field: Field, group: str, starts_per_day: float, mean_days: float, days: int, seed: int) -> FloatArray:
    """1 where the sensor group works, NaN where it is out; outages start at random and last geometric times."""
    rng = field_rng(seed, field.field_id, "outage", group)
    starts = rng.random(days) < starts_per_day
    lengths = rng.geometric(1.0 / mean_days, days)
    works = np.ones(days)
    for day in np.flatnonzero(starts):
        works[day : day + lengths[day]] = np.nan
    return works


class SensorBank:
    """The sensors of a batch of fields."""

    def __init__(
        self, fields: tuple[Field, ...], weather: Mapping[str, DailyWeather], sensors: Sensors, seed: int
    ) -> None:
        """Draw every error of the season; ``weather`` by site must also hold the day before sowing."""
        self._days = max(field.season_days for field in fields) + 1
        self._crop = fields[0].crop
        # A field may stand many times in a batch, under many policies: its errors are drawn once.
        first = {field: i for i, field in reversed(list(enumerate(fields)))}
        each = [fields[i] for i in sorted(first.values())]
        place = {field: i for i, field in enumerate(each)}
        at = np.array([place[field] for field in fields])
        self._weather = {
            name: np.stack([_daily(f, weather[f.site], name, self._days) for f in each])[at] for name in _WEATHER
        }
        self._errors = {}
        outages = {
            group: np.stack(
                [
                    _outages(f, group, sensors.dropout.starts_per_day, sensors.dropout.mean_days, self._days, seed)
                    for f in each
                ]
            )
            for group in dict.fromkeys(map(_group, _SENSED))
        }
        for name in _SENSED:
            sensor = sensors.of(name)
            pairs = [_draw(field, name, sensor, self._days, seed) for field in each]
            out = outages[_group(name)]
            self._errors[name] = _Errors(
                (np.stack([p[0] for p in pairs]) * out)[at], np.stack([p[1] for p in pairs])[at]
            )
        # The taw_mm column is a table of the agronomist's, not a sensor: it never drops out.
        taw = self._errors["taw_mm"]
        self._errors["taw_mm"] = _Errors(np.nan_to_num(taw.factor, nan=1.0), taw.shift)

    def read(self, day: int, morning: Morning, yesterday: Decision | None) -> FloatArray:
        """Records of this morning.

        Args:
            day: days after sowing.
            morning: the truth.
            yesterday: what was applied, None on the sowing date.

        Returns:
            Array of shape (n_fields, len(COLUMNS)); NaN where a sensor is out or does not exist.
        """
        row = np.full((morning.active.size, len(COLUMNS)), np.nan)
        for name in _WEATHER:
            row[:, _POSITION[name]] = self._sensed(name, day, self._weather[name][:, day])
        for name in ("depletion_frac", "taw_mm", "soil_mineral_n_kg_ha", "lai"):
            row[:, _POSITION[name]] = self._sensed(name, day, getattr(morning, name))
        row[:, _POSITION["irrigation_mm"]] = 0.0 if yesterday is None else yesterday.irrigation_mm
        row[:, _POSITION["nitrogen_kg_ha"]] = 0.0 if yesterday is None else yesterday.nitrogen_kg_ha
        return row

    def _sensed(self, name: str, day: int, truth: FloatArray) -> FloatArray:
        errors = self._errors[name]
        value = truth * errors.factor[:, day] + errors.shift[:, day]
        if name in ("rain_mm", "et0_mm", "soil_mineral_n_kg_ha", "lai"):
            return np.asarray(np.where(np.isnan(value), value, np.maximum(value, 0.0)))
        return value


def _group(column: str) -> str:
    """Columns that fail together: the weather station is one instrument."""
    return "weather" if column in _WEATHER else column


def _daily(field: Field, weather: DailyWeather, name: str, days: int) -> FloatArray:
    """Weather of the day before each morning; the last value is repeated past the end of what is observed."""
    start = (field.sowing_date - timedelta(days=1) - weather.first_day).days
    values: FloatArray = getattr(weather, name)
    if start < 0 or start >= values.size:
        raise FieldError(f"weather of {field.site} does not hold the day before {field.sowing_date} ({field.field_id})")
    index = np.minimum(np.arange(start, start + days), values.size - 1)
    return np.asarray(values[index])
