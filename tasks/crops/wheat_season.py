"""What weather does to wheat whatever the farmer does: potential evaporation, development, and all that follows.

Fields of one site that emerge on one day share it, so it is worked out once for them: one column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from tasks.crops.interface import DailyWeather, Field, FieldError, FloatArray
from tasks.crops.lintul3 import Day
from tasks.crops.lintul3_parameters import CropParameters
from tasks.crops.penman import daylength_h, potential_evaporation

_WEATHER = ("tmin_c", "tmax_c", "rain_mm", "radiation_mj_m2", "vapour_pressure_kpa", "wind_m_s")
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Seen:
    """Weather of each column and where it lies."""

    weather: FloatArray
    """Shape (len(_WEATHER), days, n_columns)."""
    day_of_year: FloatArray
    """Shape (days, n_columns)."""
    latitude_deg: FloatArray
    elevation_m: FloatArray

    def spliced(self, day: int, columns: NDArray[np.int64], other: _Seen, others: NDArray[np.int64]) -> _Seen:
        """These columns until ``day``, others of another season from it on; the place stays."""
        length = self.weather.shape[1]
        weather = np.concatenate([self.weather[:, :day, columns], other.weather[:, day:length, others]], axis=1)
        return _Seen(weather, self.day_of_year[:, columns], self.latitude_deg[columns], self.elevation_m[columns])


@dataclass(frozen=True)
class SeasonCourse:
    """The season of a batch of fields, from emergence on."""

    days: FloatArray
    """Shape (days, len(Day._fields), n_columns)."""
    column: NDArray[np.int64]
    """Shape (n_fields,): where each field finds its weather."""
    maturity_day: NDArray[np.int64]
    """Shape (n_fields,): days after emergence; a very large number if not within the season."""
    seen: _Seen
    """What it was worked out from."""

    def spliced(
        self, p: CropParameters, day: int, rows: NDArray[np.int64], other: SeasonCourse, other_rows: NDArray[np.int64]
    ) -> SeasonCourse:
        """The seasons of ``rows`` until ``day``, those of ``other_rows`` of another course from it on."""
        pairs = np.stack([self.column[rows], other.column[other_rows]])
        distinct, column = np.unique(pairs, axis=1, return_inverse=True)
        seen = self.seen.spliced(day, distinct[0], other.seen, distinct[1])
        days, maturity_day = _course(p, seen)
        column = column.reshape(-1)
        return SeasonCourse(days, column, maturity_day[column], seen)

    @property
    def mean_temperature_c(self) -> FloatArray:
        """Shape (n_fields, days)."""
        tmin, tmax = self.seen.weather[:2]
        return np.asarray(((tmin + tmax) / 2)[:, self.column].T)

    def day(self, number: int) -> Day:
        """The day ``number`` days after emergence, arrays of shape (n_fields,)."""
        return Day(*self.days[number][:, self.column])


def check_weather(field: Field, weather: Mapping[str, DailyWeather]) -> None:
    """Raise ValueError unless ``weather`` has every value of the field's season; what is missing is named."""
    if field.site not in weather:
        raise FieldError(f"field {field.field_id}: no weather for site '{field.site}', only for {sorted(weather)}")
    site = weather[field.site]
    start = (field.sowing_date - site.first_day).days
    if start < 0 or start + field.season_days > site.rain_mm.size:
        last = site.first_day + timedelta(days=site.rain_mm.size - 1)
        needed = field.sowing_date + timedelta(days=field.season_days - 1)
        raise FieldError(
            f"field {field.field_id}: season {field.season} needs weather of {field.site} from {field.sowing_date} to"
            f" {needed}, but it runs from {site.first_day} to {last}; add the missing days or leave this season out"
        )
    for name in _WEATHER:
        gaps = np.flatnonzero(~np.isfinite(getattr(site, name)[start : start + field.season_days]))
        if gaps.size:
            day = field.sowing_date + timedelta(days=int(gaps[0]))
            raise FieldError(
                f"field {field.field_id}: weather of {field.site} has no {name} on {day}; fill the gap first"
            )


def season_course(p: CropParameters, fields: tuple[Field, ...], weather: Mapping[str, DailyWeather]) -> SeasonCourse:
    """Work out the season of each field.

    Raises:
        ValueError: weather that does not cover a field's season.
    """
    keys = [(field.site, field.sowing_date, field.season_days) for field in fields]
    firsts = dict(zip(reversed(keys), reversed(fields), strict=True))
    for field in firsts.values():
        check_weather(field, weather)
    position = {key: i for i, key in enumerate(firsts)}
    column = np.array([position[key] for key in keys], dtype=np.int64)
    seen = _seen(list(firsts.values()), weather)
    days, maturity_day = _course(p, seen)
    return SeasonCourse(days, column, maturity_day[column], seen)


def _seen(fields: list[Field], weather: Mapping[str, DailyWeather]) -> _Seen:
    length = max(field.season_days for field in fields)
    return _Seen(
        np.stack([_gather(name, fields, weather, length) for name in _WEATHER]),
        _days_of_year(fields, length),
        np.array([weather[field.site].latitude_deg for field in fields]),
        np.array([weather[field.site].elevation_m for field in fields]),
    )


def _course(p: CropParameters, seen: _Seen) -> tuple[FloatArray, NDArray[np.int64]]:
    """Arrays of shape (days, len(Day._fields), n_columns) and (n_columns,)."""
    tmin, tmax, rain, radiation, vapour, wind = seen.weather
    day_of_year, latitude, elevation = seen.day_of_year, seen.latitude_deg, seen.elevation_m
    potential = potential_evaporation(tmin, tmax, radiation, vapour, wind, day_of_year, latitude, elevation)
    mean = (tmin + tmax) / 2
    stage, warmth = _development(p, mean, daylength_h(latitude, day_of_year))
    mature = stage >= p.dvsend
    today = stage[:-1]
    day = Day(
        rain_mm=rain,
        soil_evaporation_mm=potential.soil_mm,
        canopy_evaporation_mm=potential.canopy_mm,
        radiation_mj_m2=radiation,
        effective_temperature_c=np.maximum(mean - p.tbase, 0.0),
        ageing=np.where(warmth[:-1] < p.tsumag, 0.0, p.rdrt.at(mean)),
        stage=today,
        specific_leaf_area=p.slac * p.slacf.at(today),
        max_leaf_n=p.nmxlv.at(today),
        to_roots=p.frttb.at(today),
        to_leaves=p.flvtb.at(today),
        to_stems=p.fsttb.at(today),
        to_grain=p.fsotb.at(today),
    )
    return np.stack(day, axis=1), np.where(mature.any(axis=0), mature.argmax(axis=0), _NEVER)


def _gather(name: str, fields: list[Field], weather: Mapping[str, DailyWeather], length: int) -> FloatArray:
    """One weather column for each field's season, shape (length, n_columns); shorter seasons repeat their last day."""
    columns = []
    for field in fields:
        start = (field.sowing_date - weather[field.site].first_day).days
        season = getattr(weather[field.site], name)[start : start + field.season_days]
        columns.append(np.pad(season, (0, length - field.season_days), mode="edge"))
    return np.stack(columns, axis=1)


def _days_of_year(fields: list[Field], length: int) -> FloatArray:
    first = np.array([field.sowing_date for field in fields], dtype="datetime64[D]")
    dates = first + np.arange(length)[:, None]
    return np.asarray((dates - dates.astype("datetime64[Y]")).astype(np.float64) + 1)


def _development(p: CropParameters, mean_c: FloatArray, daylength: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Development stage and temperature sum on each morning, arrays of shape (days + 1, n_columns).

    Temperature drives both parts; before anthesis short days slow it (van Diepen et al. 1989, WOFOST).
    """
    slowed = np.clip((daylength - p.dlc) / (p.dlo - p.dlc), 0.0, 1.0) if p.idsl >= 1 else np.ones(daylength.shape)
    gain = p.dtsmtb.at(mean_c)
    stage, warmth = np.empty((2, len(gain) + 1, *gain.shape[1:]))
    stage[0], warmth[0] = p.dvsi, 0.0
    for day in range(len(gain)):
        before = stage[day] < 1
        today = np.where(stage[day] < p.dvsend, gain[day] * np.where(before, slowed[day], 1.0), 0.0)
        warmth[day + 1] = warmth[day] + today
        # A day's warmth left over at a threshold is lost: the stage waits there until the next day.
        later = stage[day] + today / np.where(before, p.tsum1, p.tsum2)
        stage[day + 1] = np.minimum(later, np.where(before, 1.0, p.dvsend))
    return stage, warmth
