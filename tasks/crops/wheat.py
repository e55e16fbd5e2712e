"""Rain-fed spring wheat by LINTUL3 with its nitrogen balance, a batch of fields at a time.

The kernel is `tasks.crops.lintul3`; this module farms it: fields and soils in, decisions and observations by the day.
Nitrogen reaches the soil on the day it is given and the crop can take it up from the day after. Mineral nitrogen that
is in the soil at emergence counts as given on that day, without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.crops.interface import (
    BoolArray,
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
from tasks.crops.lintul3 import Soil, State, daily_rates, initial_state, water_content
from tasks.crops.lintul3_parameters import CropParameters, spring_wheat
from tasks.crops.wheat_season import season_course

FERTILISER_RECOVERY: Final = 0.7
"""Share of the nitrogen given that the soil keeps for the crop; as in the spring-wheat example of LINTUL3."""
_KG_HA_PER_G_M2 = 10.0


def _soil(wilting_point: float, field_capacity: float, saturation: float) -> dict[str, float]:
    return {
        # The top soil dries to half the wilting point (FAO-56, Allen et al. 1998, eq. 73).
        "WCAD": wilting_point / 2,
        "WCWP": wilting_point,
        "WCFC": field_capacity,
        # Roots need 5 % of the soil filled with air, and 30 mm drain in a day: LINTUL3's own soil.
        "WCWET": saturation - 0.05,
        "WCST": saturation,
        "DRATE": 30.0,
    }


SOILS: Final[Mapping[str, Mapping[str, float]]] = {
    "sandy_loam": _soil(0.08, 0.18, 0.45),
    "loam": _soil(0.14, 0.28, 0.46),
    "clay_loam": _soil(0.22, 0.36, 0.48),
    "silt_loam": _soil(0.11, 0.31, 0.48),
}
"""By name: water contents in m3/m3 when air-dry, at wilting point, at field capacity, above which roots lack oxygen,
and at saturation; DRATE in mm/d. Texture classes of Saxton & Rawls (2006), Soil Sci. Soc. Am. J. 70, 1569-1578,
table 3 (2.5 % organic matter)."""


def _check_field(field: Field) -> None:
    if field.crop != "wheat":
        raise FieldError(f"field {field.field_id} grows {field.crop}; a wheat batch holds wheat only")
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
    for name in ("mineral_n_kg_ha", "mineralisation_kg_ha_d"):
        value = getattr(field, name)
        if not (np.isfinite(value) and value >= 0):
            raise FieldError(f"field {field.field_id}: {name} is {value}; give a number from 0 up")


def _soils(fields: tuple[Field, ...]) -> Soil:
    air_dry, wilting_point, field_capacity, too_wet, saturation, drainage = (
        np.array([SOILS[field.soil][name] for field in fields])
        for name in ("WCAD", "WCWP", "WCFC", "WCWET", "WCST", "DRATE")
    )
    share = np.array([field.initial_water_frac for field in fields])
    subsoil = wilting_point + share * (field_capacity - wilting_point)
    return Soil(air_dry, wilting_point, field_capacity, too_wet, saturation, drainage, subsoil)


class WheatBatch:
    """Wheat fields in the middle of their season; see `tasks.crops.interface.CropBatch`.

    A field is done when its crop is mature or ``season_days`` old. Its morning is NaN from then on.
    """

    fields: tuple[Field, ...]

    def __init__(
        self, fields: tuple[Field, ...], weather: Mapping[str, DailyWeather], crop: CropParameters | None = None
    ) -> None:
        """Let the crop emerge on every field, its root zone and subsoil equally wet.

        Args:
            fields: at least one.
            weather: by site; must cover each field's season.
            crop: another crop than the spring wheat of the pcse package.

        Raises:
            ValueError: no field, an unknown soil, a value out of range, or weather that does not cover a season.
            RuntimeError: the crop's parameters cannot be read.
        """
        if not fields:
            raise FieldError("a wheat batch needs at least one field")
        for field in fields:
            _check_field(field)
        self.fields = fields
        self._crop = crop or spring_wheat()
        self._course = season_course(self._crop, fields, weather)
        self._season_days = np.array([field.season_days for field in fields], dtype=np.int64)
        self._end_day = np.minimum(self._course.maturity_day, self._season_days)
        self._soil = _soils(fields)
        self._mineralisation = np.array([f.mineralisation_kg_ha_d for f in fields]) / _KG_HA_PER_G_M2
        self._waiting_n = np.array([f.mineral_n_kg_ha for f in fields]) / _KG_HA_PER_G_M2
        start = initial_state(self._crop, self._course.day(0).specific_leaf_area, self._soil.subsoil)
        self._state = np.stack(start)
        self._day = 0
        self._nitrogen_kg_ha = np.zeros(len(fields))

    def branch(self, rows: NDArray[np.int64], futures: WheatBatch, future_rows: NDArray[np.int64]) -> WheatBatch:
        """Copies of fields as they stand this morning, which live on in other weather; see ``CropBatch.branch``."""
        check_futures(self.fields, rows, futures.fields, future_rows)
        made = object.__new__(WheatBatch)
        made.fields = tuple(self.fields[i] for i in rows.tolist())
        made._crop = self._crop
        made._course = self._course.spliced(self._crop, self._day, rows, futures._course, future_rows)
        made._season_days = self._season_days[rows]
        made._end_day = np.minimum(made._course.maturity_day, made._season_days)
        made._soil = Soil(*(each[rows] for each in self._soil))
        made._mineralisation, made._waiting_n = self._mineralisation[rows], self._waiting_n[rows]
        made._state, made._day = self._state[:, rows], self._day
        made._nitrogen_kg_ha = self._nitrogen_kg_ha[rows]
        return made

    @property
    def mean_temperature_c(self) -> FloatArray:
        """Mean of the day's least and greatest temperature, shape (n_fields, days)."""
        return self._course.mean_temperature_c

    @property
    def state(self) -> State:
        """Where the crop model stands; views, not to be written to. Fields that are done keep their last state."""
        return State(*self._state)

    @property
    def _active(self) -> BoolArray:
        return np.asarray(self._day < self._end_day)

    def morning(self) -> Morning:
        """True state this morning. Calling it twice changes nothing."""
        s, soil, active = self.state, self._soil, self._active
        available = soil.field_capacity - soil.wilting_point
        soil_n = _KG_HA_PER_G_M2 * (s.soil_n + self._waiting_n)
        to_come = _KG_HA_PER_G_M2 * self._mineralisation * (self._season_days - self._day)
        states = (
            1 - (water_content(s) - soil.wilting_point) / available,
            available * (1000 * s.root_depth_m),
            s.lai,
            soil_n,
            soil_n + to_come,
            (s.leaves + s.dead_leaves + s.stems + s.grain) / 100,
        )
        return Morning(active, *(np.where(active, state, np.nan) for state in states))

    def step(self, decision: Decision) -> None:
        """Let today happen.

        Raises:
            ValueError: a negative or NaN amount, or irrigation, for an active field; nothing has happened then.
        """
        self._check(decision)
        if self.finished:
            return
        active = self._active
        dose = np.where(active, decision.nitrogen_kg_ha, 0.0)
        n_supply = dose / _KG_HA_PER_G_M2 * FERTILISER_RECOVERY + self._waiting_n + self._mineralisation
        rates = daily_rates(self._crop, self._soil, self.state, self._course.day(self._day), n_supply)
        np.add(self._state, np.stack(rates), out=self._state, where=active)
        self._waiting_n = np.zeros(len(self.fields))
        self._nitrogen_kg_ha += dose
        self._day += 1

    def _check(self, decision: Decision) -> None:
        for name in ("irrigation_mm", "nitrogen_kg_ha"):
            days = np.full(len(self.fields), self._day)
            check_amounts(self.fields, self._active, name, getattr(decision, name), days, "emergence")
        watered = np.flatnonzero(self._active & (decision.irrigation_mm != 0))
        if watered.size:
            i = int(watered[0])
            raise FieldError(
                f"field {self.fields[i].field_id}: irrigation_mm is {decision.irrigation_mm[i]} on day {self._day}"
                " after emergence, but this wheat is rain-fed; decide 0"
            )

    @property
    def finished(self) -> bool:
        """No field is active any more and none will be."""
        return not self._active.any()

    def harvest(self) -> Harvest:
        """Outcome so far; final once ``finished``."""
        return Harvest(
            yield_t_ha=self.state.grain / 100,
            irrigation_mm=np.zeros(len(self.fields)),
            nitrogen_kg_ha=self._nitrogen_kg_ha.copy(),
            season_days=np.minimum(self._end_day, self._day),
            matured=np.asarray(self._course.maturity_day <= np.minimum(self._end_day, self._day)),
        )
