"""Maize on the ``aquacrop`` package (FAO's crop-water model), a batch of fields at a time.

AquaCrop knows no nitrogen: doses are counted in the harvest and change nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches

import numpy as np

from tasks.crops.interface import DailyWeather, Decision, Field, FieldError, FloatArray, Harvest, Morning
from tasks.crops.maize_season import SOILS, MaizeSeason, WeatherDay, aquacrop_weather

_WEATHER = ("tmin_c", "tmax_c", "rain_mm", "et0_mm")


def _check_field(field: Field) -> None:
    if field.crop != "maize":
        raise FieldError(f"field {field.field_id} grows {field.crop}; a maize batch holds maize only")
    if field.soil not in SOILS:
        near = get_close_matches(field.soil, SOILS, n=1, cutoff=0.0)[0]
        raise FieldError(
            f"field {field.field_id}: no soil named '{field.soil}', did you mean '{near}'? Known are {', '.join(SOILS)}"
        )
    if not 0.0 <= field.initial_water_frac <= 1.0:
        raise FieldError(
            f"field {field.field_id}: initial_water_frac is {field.initial_water_frac}; give a share from 0 to 1"
        )
    if field.season_days < 1:
        raise FieldError(f"field {field.field_id}: season_days is {field.season_days}; give at least one day")


def _season_weather(field: Field, weather: Mapping[str, DailyWeather]) -> list[WeatherDay]:
    """The field's weather, one row a day from its sowing date on."""
    if field.site not in weather:
        raise FieldError(f"field {field.field_id}: no weather for site '{field.site}', only for {sorted(weather)}")
    site = weather[field.site]
    start = (field.sowing_date - site.first_day).days
    stop = start + field.season_days
    if start < 0 or stop > site.tmin_c.size:
        last_day = site.first_day + timedelta(days=site.tmin_c.size - 1)
        needed = field.sowing_date + timedelta(days=field.season_days - 1)
        raise FieldError(
            f"field {field.field_id}: season {field.season} needs weather of {field.site} from {field.sowing_date} to"
            f" {needed}, but it runs from {site.first_day} to {last_day}; add the missing days or leave this season out"
        )
    columns = [getattr(site, name)[start:stop] for name in _WEATHER]
    for name, column in zip(_WEATHER, columns, strict=True):
        _check_gaps(field, name, column)
    return aquacrop_weather(*(column.tolist() for column in columns))


def _check_gaps(field: Field, name: str, column: FloatArray) -> None:
    gaps = np.flatnonzero(~np.isfinite(column))
    if gaps.size:
        day = field.sowing_date + timedelta(days=int(gaps[0]))
        raise FieldError(f"field {field.field_id}: weather of {field.site} has no {name} on {day}; fill the gap first")


class MaizeBatch:
    """Maize fields in the middle of their season; see `tasks.crops.interface.CropBatch`.

    A field is done when its crop is mature (132 days after sowing), dead, or ``season_days`` old. Its morning is
    NaN from then on.
    """

    fields: tuple[Field, ...]

    def __init__(self, fields: tuple[Field, ...], weather: Mapping[str, DailyWeather]) -> None:
        """Sow every field.

        Raises:
            ValueError: an unknown soil, a value out of range, or weather that does not cover a field's season.
            RuntimeError: aquacrop is installed in another version than the one supported.
        """
        for field in fields:
            _check_field(field)
        rows = [_season_weather(field, weather) for field in fields]
        self.fields = fields
        self._seasons = [MaizeSeason(field, row) for field, row in zip(fields, rows, strict=True)]
        self._nitrogen_kg_ha = np.zeros(len(fields))

    def morning(self) -> Morning:
        """True state this morning. Calling it twice changes nothing."""
        active = np.array([season.active for season in self._seasons], dtype=np.bool_)
        depletion, taw, lai, biomass = np.full((4, len(self.fields)), np.nan)
        for i in np.flatnonzero(active):
            season = self._seasons[i]
            depletion_mm, taw[i] = season.root_zone()
            depletion[i] = depletion_mm / taw[i]
            lai[i], biomass[i] = season.lai, season.biomass_t_ha
        nothing = np.full(len(self.fields), np.nan)
        return Morning(active, depletion, taw, lai, nothing, nothing.copy(), biomass)

    def step(self, decision: Decision) -> None:
        """Let today happen. Raises ValueError on negative or NaN amounts for an active field, before anything grows."""
        active = [i for i, season in enumerate(self._seasons) if season.active]
        self._check_amounts("irrigation_mm", decision.irrigation_mm, active)
        self._check_amounts("nitrogen_kg_ha", decision.nitrogen_kg_ha, active)
        for i in active:
            self._seasons[i].step(float(decision.irrigation_mm[i]))
            self._nitrogen_kg_ha[i] += decision.nitrogen_kg_ha[i]

    def _check_amounts(self, name: str, amounts: FloatArray, active: list[int]) -> None:
        if amounts.shape != (len(self.fields),):
            raise FieldError(f"{name} has shape {amounts.shape}; give one value for each of {len(self.fields)} fields")
        for i in active:
            if not (np.isfinite(amounts[i]) and amounts[i] >= 0):
                raise FieldError(
                    f"field {self.fields[i].field_id}: {name} is {amounts[i]} on day {self._seasons[i].days} after"
                    " sowing; decide a number from 0 up"
                )

    @property
    def finished(self) -> bool:
        """No field is active any more and none will be."""
        return not any(season.active for season in self._seasons)

    def harvest(self) -> Harvest:
        """Outcome so far; final once ``finished``."""
        return Harvest(
            yield_t_ha=np.array([season.yield_t_ha for season in self._seasons]),
            irrigation_mm=np.array([season.irrigation_mm for season in self._seasons]),
            nitrogen_kg_ha=self._nitrogen_kg_ha.copy(),
            season_days=np.array([season.days for season in self._seasons], dtype=np.int64),
            matured=np.array([season.mature for season in self._seasons], dtype=np.bool_),
        )
