"""One maize field through one season on the ``aquacrop`` package, day by day.

The package's day step is used as installed. Its initialisation, which costs as much as the season itself because
it builds pandas frames, is run once for each soil and once for each year: a soil's profile does not depend on the
year, and the maize calendar, counted in days, depends on neither weather nor soil; only the response to the air's
carbon dioxide changes with the year. Each field gets its own copy of everything a day step writes into.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from datetime import date, timedelta
from functools import cache
from typing import Any

import numpy as np

from tasks.crops.interface import Field
from tasks.crops.root_zone import root_zone_water, use_fast_root_zone

SOILS = (
    "Clay", "ClayLoam", "Default", "Loam", "LoamySand", "Paddy", "Sand", "SandyClay", "SandyClayLoam", "SandyLoam",
    "Silt", "SiltClay", "SiltClayLoam", "SiltLoam", "ac_TunisLocal",
)  # fmt: skip
"""Soils aquacrop 3.1.0 knows by name."""

MAIZE_DAYS = 132
"""Days from sowing to maturity of aquacrop's maize, whatever the weather."""

EXTINCTION = 0.65
"""Light extinction of a maize canopy, for Beer's law between canopy cover and leaf area index."""

WeatherDay = tuple[float, float, float, float]
"""Minimum and maximum temperature C, rain mm, reference evapotranspiration mm: aquacrop's own order."""

_ET0_FLOOR_MM = 0.1
_UNLIMITED_MM = 1e9


def aquacrop_weather(
    tmin_c: Sequence[float], tmax_c: Sequence[float], rain_mm: Sequence[float], et0_mm: Sequence[float]
) -> list[WeatherDay]:
    """One row a day as aquacrop wants it; evapotranspiration is at least 0.1 mm, as in its own reader."""
    return [
        (low, high, rain, max(et0, _ET0_FLOOR_MM))
        for low, high, rain, et0 in zip(tmin_c, tmax_c, rain_mm, et0_mm, strict=True)
    ]


@cache
def _of_soil(soil: str) -> Any:
    """Aquacrop's own model of maize on ``soil``, initialised: sown on 1 May 2000, wet to field capacity."""
    use_fast_root_zone()
    # From their own modules: the package's top level names nothing in a process started with an option "-m".
    import pandas as pd
    from aquacrop.core import AquaCropModel  # type: ignore[import-untyped]  # has no stubs
    from aquacrop.entities.crop import Crop  # type: ignore[import-untyped]  # as above
    from aquacrop.entities.inititalWaterContent import InitialWaterContent  # type: ignore[import-untyped]  # as above
    from aquacrop.entities.irrigationManagement import IrrigationManagement  # type: ignore[import-untyped]  # as above
    from aquacrop.entities.soil import Soil  # type: ignore[import-untyped]  # as above

    # The maize calendar is in days, so that initialisation reads no temperature; any weather serves.
    columns = {"MinTemp": 10.0, "MaxTemp": 25.0, "Precipitation": 0.0, "ReferenceET": 5.0}
    weather = pd.DataFrame({**columns, "Date": pd.date_range("2000-05-01", "2000-12-31")})
    ground = Soil(soil)
    layers = list(range(1, ground.nLayer + 1))
    model = AquaCropModel(
        sim_start_time="2000/05/01",
        sim_end_time="2000/12/31",
        weather_df=weather,
        soil=ground,
        crop=Crop("Maize", planting_date="05/01"),
        initial_water_content=InitialWaterContent("Pct", "Layer", layers, [100.0] * len(layers)),
        # MaxIrr would silently cut a day's depth at 25 mm; what is decided is what is applied.
        irrigation_management=IrrigationManagement(5, depth=0, MaxIrr=_UNLIMITED_MM, MaxIrrSeason=_UNLIMITED_MM),
    )
    model._initialize()
    return model


@cache
def _of_year(year: int) -> tuple[Any, Any]:
    """Crop and carbon dioxide of ``year``, as aquacrop's initialisation computes them."""
    import pandas as pd
    from aquacrop.entities.co2 import CO2  # type: ignore[import-untyped]  # has no stubs
    from aquacrop.initialize.compute_variables import compute_variables  # type: ignore[import-untyped]  # has no stubs

    model = _of_soil(SOILS[0])
    parameters, clock = copy.copy(model._param_struct), copy.copy(model._clock_struct)
    parameters.CO2 = CO2()
    parameters.CropList = copy.deepcopy(parameters.CropList)
    clock.simulation_start_date, clock.simulation_end_date = pd.Timestamp(year, 1, 1), pd.Timestamp(year, 12, 31)
    parameters = compute_variables(parameters, model.weather_df, clock)
    return parameters.Seasonal_Crop_List[0], parameters.CO2


def _initial_water(soil: str, water_frac: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Volumetric water content at sowing, shape (n_compartments,), as aquacrop's type "Pct" computes it."""
    ground = _of_soil(soil)._param_struct.Soil
    contents = np.zeros(len(ground.Profile.dz))
    for layer, row in ground.Hydrology.iterrows():
        content = row.th_wp + ((100 * water_frac / 100) * (row.th_fc - row.th_wp))
        contents[ground.Profile.Layer == layer] = content
    return contents


def _parameters(soil: str, year: int) -> Any:
    parameters = copy.copy(_of_soil(soil)._param_struct)
    crop, parameters.CO2 = _of_year(year)
    parameters.Seasonal_Crop_List = [crop]
    parameters.IrrMngt = copy.copy(parameters.IrrMngt)
    parameters.Soil = copy.copy(parameters.Soil)
    parameters.Soil.Profile = copy.deepcopy(parameters.Soil.Profile)
    return parameters


def _clock(field: Field) -> Any:
    clock = copy.copy(_of_soil(field.soil)._clock_struct)
    clock.planting_dates = [field.sowing_date]
    clock.harvest_dates = [field.sowing_date + timedelta(days=MAIZE_DAYS + 30)]
    clock.step_start_time = field.sowing_date
    clock.step_end_time = field.sowing_date + timedelta(days=1)
    return clock


class _Outputs:
    """Takes the rows a day step writes and keeps none: the state is read from the model."""

    class _Sink:
        def __setitem__(self, where: object, row: object) -> None:
            pass

        loc = property(lambda self: self)

    water_flux = water_storage = crop_growth = final_stats = _Sink()


class MaizeSeason:
    """One field from sowing on. Amounts applied so far and days lived are public."""

    def __init__(self, field: Field, weather: list[WeatherDay]) -> None:
        """Sow.

        Args:
            field: whose soil is one of `SOILS`.
            weather: one row a day from the sowing date on, at least ``field.season_days`` rows.
        """
        from aquacrop.timestep.run_single_timestep import (  # type: ignore[import-untyped]  # has no stubs
            solution_single_time_step,
        )

        self.days = 0
        self.irrigation_mm = 0.0
        self._day_step = solution_single_time_step
        self._season_days = field.season_days
        self._weather = weather
        self._parameters = _parameters(field.soil, field.sowing_date.year)
        self._clock = _clock(field)
        self._state = copy.deepcopy(_of_soil(field.soil)._init_cond)
        self._state.th = self._state.thini = _initial_water(field.soil, field.initial_water_frac)
        self._crop = self._parameters.Seasonal_Crop_List[0]
        self._dates: list[date] = [field.sowing_date + timedelta(days=day) for day in range(field.season_days + 2)]

    @property
    def active(self) -> bool:
        """Sown, neither mature nor dead, and within the longest season asked for."""
        return not self._state.harvest_flag and self.days < self._season_days

    @property
    def mature(self) -> bool:
        """The crop ripened; False if it died or was cut off."""
        return bool(self._state.crop_mature)

    @property
    def yield_t_ha(self) -> float:
        """Dry grain, as the crop stands."""
        return float(self._state.DryYield)

    @property
    def biomass_t_ha(self) -> float:
        """Dry matter above ground."""
        return float(self._state.biomass) / 100  # from g/m2

    @property
    def lai(self) -> float:
        """Leaf area index that covers as much ground as the green canopy does, by Beer's law."""
        return abs(math.log1p(-float(self._state.canopy_cover)) / EXTINCTION)

    def root_zone(self) -> tuple[float, float]:
        """Depletion and total available water of the root zone now, mm; depletion is negative above field capacity."""
        soil = self._parameters.Soil
        water = root_zone_water(
            soil.Profile, float(self._state.z_root), self._state.th, soil.z_top, self._crop.Zmin, self._crop.Aer
        )
        return water[2], water[4]

    def step(self, irrigation_mm: float) -> None:
        """Let one day happen on an active field."""
        clock = self._clock
        clock.time_step_counter = self.days
        clock.step_start_time, clock.step_end_time = self._dates[self.days], self._dates[self.days + 1]
        self._parameters.IrrMngt.depth = irrigation_mm
        self._state, self._parameters, _ = self._day_step(
            self._state, self._parameters, clock, self._weather[self.days], _Outputs
        )
        self._parameters.IrrMngt.depth = 0.0
        self.irrigation_mm += irrigation_mm
        self.days += 1
