"""Maize on the ``aquacrop`` package (FAO's crop-water model), compiled, a batch of fields at a time.

AquaCrop knows no nitrogen: doses are counted in the harvest and change nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from tasks.crops.interface import (
    DailyWeather,
    Decision,
    Field,
    FieldError,
    FloatArray,
    Harvest,
    Morning,
    check_amounts,
    check_futures,
)
from tasks.crops.maize_start import SOILS, compiled, example, layer_water, of_soil, of_year

EXTINCTION = 0.65
"""Light extinction of a maize canopy, for Beer's law between canopy cover and leaf area index."""
_ET0_FLOOR_MM = 0.1
"""As in aquacrop's own reader of weather."""
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


def _season_weather(field: Field, weather: Mapping[str, DailyWeather]) -> FloatArray:
    """The field's weather from its sowing date on, shape (days, 4), in aquacrop's own order."""
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
    return np.stack([*columns[:3], np.maximum(columns[3], _ET0_FLOOR_MM)], axis=1)


def _season_weathers(fields: tuple[Field, ...], weather: Mapping[str, DailyWeather]) -> list[FloatArray]:
    """``_season_weather`` of every field, looked up once for fields that share it."""
    found: dict[tuple[str, date, int], FloatArray] = {}
    rows = []
    for field in fields:
        key = (field.site, field.sowing_date, field.season_days)
        if key not in found:
            found[key] = _season_weather(field, weather)
        rows.append(found[key])
    return rows


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
        rows = _season_weathers(fields, weather)
        self.fields = fields
        self._model = compiled()
        self._weather = np.zeros((len(fields), max(len(row) for row in rows), len(_WEATHER)))
        for i, row in enumerate(rows):
            self._weather[i, : len(row)] = row
        years, self._year = np.unique([field.sowing_date.year for field in fields], return_inverse=True)
        soils, self._soil = np.unique([field.soil for field in fields], return_inverse=True)
        self._crops, self._co2s = (np.concatenate(each) for each in zip(*map(of_year, years.tolist()), strict=True))
        starts, profiles, self._soils = (
            np.concatenate(each) for each in zip(*map(of_soil, soils.tolist()), strict=True)
        )
        self._states, self._profiles = starts[self._soil], profiles[self._soil]
        wilting, available = np.array([layer_water(soil) for soil in soils.tolist()]).transpose(1, 0, 2)
        water_pct = 100 * np.array([field.initial_water_frac for field in fields])[:, None]
        self._states["th"] = wilting[self._soil] + water_pct / 100 * available[self._soil]
        self._states["thini"] = self._states["th"]
        self._management, self._ground = (each.copy() for each in example()[-2:])
        self._days = np.zeros(len(fields), dtype=np.int64)
        self._season_days = np.array([field.season_days for field in fields], dtype=np.int64)
        self._active = np.ones(len(fields), dtype=np.bool_)
        self._irrigation_mm, self._nitrogen_kg_ha = np.zeros((2, len(fields)))

    def branch(self, rows: NDArray[np.int64], futures: MaizeBatch, future_rows: NDArray[np.int64]) -> MaizeBatch:
        """Copies of fields as they stand this morning, which live on in other weather; see ``CropBatch.branch``.

        The air's carbon dioxide stays that of the field's own year.
        """
        check_futures(self.fields, rows, futures.fields, future_rows)
        made = object.__new__(MaizeBatch)
        made.fields = tuple(self.fields[i] for i in rows.tolist())
        made._model, made._crops, made._co2s, made._soils = self._model, self._crops, self._co2s, self._soils
        made._weather = futures._weather[future_rows]
        for name in ("_year", "_soil", "_states", "_profiles", "_days", "_season_days", "_active"):
            setattr(made, name, getattr(self, name)[rows])
        made._irrigation_mm, made._nitrogen_kg_ha = self._irrigation_mm[rows], self._nitrogen_kg_ha[rows]
        made._management, made._ground = self._management.copy(), self._ground.copy()
        return made

    def morning(self) -> Morning:
        """True state this morning. Calling it twice changes nothing."""
        told = np.full((4, len(self.fields)), np.nan)
        self._model.morning_fields(
            self._states,
            self._profiles,
            self._crops,
            self._soils,
            self._year,
            self._soil,
            self._active,
            EXTINCTION,
            told,
        )
        depletion_mm, taw_mm, lai, biomass_t_ha = told
        nothing = np.full(len(self.fields), np.nan)
        return Morning(self._active.copy(), depletion_mm / taw_mm, taw_mm, lai, nothing, nothing.copy(), biomass_t_ha)

    def step(self, decision: Decision) -> None:
        """Let today happen. Raises ValueError on negative or NaN amounts for an active field, before anything grows."""
        for name in ("irrigation_mm", "nitrogen_kg_ha"):
            check_amounts(self.fields, self._active, name, getattr(decision, name), self._days, "sowing")
        # Another layout in memory, or an array that can't be written to, would be compiled for anew.
        applied_mm = np.array(decision.irrigation_mm, dtype=np.float64)
        self._irrigation_mm[self._active] += applied_mm[self._active]
        self._nitrogen_kg_ha[self._active] += decision.nitrogen_kg_ha[self._active]
        self._model.step_fields(
            self._states,
            self._profiles,
            self._crops,
            self._co2s,
            self._soils,
            self._management,
            self._ground,
            self._year,
            self._soil,
            self._weather,
            self._active,
            applied_mm,
            self._days,
            self._season_days,
        )

    @property
    def finished(self) -> bool:
        """No field is active any more and none will be."""
        return not self._active.any()

    def harvest(self) -> Harvest:
        """Outcome so far; final once ``finished``."""
        return Harvest(
            yield_t_ha=self._states["DryYield"].copy(),
            irrigation_mm=self._irrigation_mm.copy(),
            nitrogen_kg_ha=self._nitrogen_kg_ha.copy(),
            season_days=self._days.copy(),
            matured=self._states["crop_mature"].copy(),
        )
