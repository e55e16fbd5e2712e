"""Maize fields on their sowing day, as records of the compiled model.

The ``aquacrop`` package's own initialisation, which builds pandas frames and costs as much as the season did, is run
once for each soil and once for each year: a soil's profile does not depend on the year, and the maize calendar, counted
in days, depends on neither weather nor soil; only the response to the air's carbon dioxide changes with the year.
"""

from __future__ import annotations

import copy
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from tasks.crops.aquacrop_kernel import Example, example_of, kernel
from tasks.crops.aquacrop_records import record_of, refuse_uncovered

SOILS = (
    "Clay", "ClayLoam", "Default", "Loam", "LoamySand", "Paddy", "Sand", "SandyClay", "SandyClayLoam", "SandyLoam",
    "Silt", "SiltClay", "SiltClayLoam", "SiltLoam", "ac_TunisLocal",
)  # fmt: skip
"""Soils aquacrop 3.1.0 knows by name."""

MAIZE_DAYS = 132
"""Days from sowing to maturity of aquacrop's maize, whatever the weather."""
_UNLIMITED_MM = 1e9


def compiled() -> ModuleType:
    """The compiled model; the first call on a machine takes half a minute."""
    return kernel(example)


def example() -> Example:
    """Records of some field."""
    model = _of_soil(SOILS[0])
    return example_of(model._param_struct, model._init_cond)


@cache
def _of_soil(soil: str) -> Any:
    """Aquacrop's own model of maize on ``soil``, initialised: sown on 1 May 2000, wet to field capacity."""
    # From their own modules: the package's top level names nothing in a process started with an option "-m".
    import pandas as pd
    from aquacrop.core import AquaCropModel
    from aquacrop.entities.crop import Crop
    from aquacrop.entities.inititalWaterContent import InitialWaterContent
    from aquacrop.entities.irrigationManagement import IrrigationManagement
    from aquacrop.entities.soil import Soil

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
    refuse_uncovered(model._param_struct)
    return model


@cache
def of_soil(soil: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """State on the sowing day at field capacity, profile, and soil; records of shape (1,), to be copied."""
    shown, model = example(), _of_soil(soil)
    ground = model._param_struct.Soil
    state = record_of(model._init_cond, shown.states.dtype)
    return state, record_of(ground.Profile, shown.profiles.dtype), record_of(ground, shown.soils.dtype)


@cache
def of_year(year: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Crop and carbon dioxide of ``year``, as aquacrop's initialisation computes them; records of shape (1,)."""
    import pandas as pd
    from aquacrop.entities.co2 import CO2
    from aquacrop.initialize.compute_variables import compute_variables

    model, shown = _of_soil(SOILS[0]), example()
    parameters, clock = copy.copy(model._param_struct), copy.copy(model._clock_struct)
    parameters.CO2 = CO2()
    parameters.CropList = copy.deepcopy(parameters.CropList)
    clock.simulation_start_date, clock.simulation_end_date = pd.Timestamp(year, 1, 1), pd.Timestamp(year, 12, 31)
    parameters = compute_variables(parameters, model.weather_df, clock)
    crop, air = parameters.Seasonal_Crop_List[0], parameters.CO2
    return record_of(crop, shown.crops.dtype), record_of(air, shown.co2s.dtype)


@cache
def layer_water(soil: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Volumetric water at wilting point and from there to field capacity, each shape (n_compartments,).

    Water at sowing is the first and a share of the second, as in aquacrop's type "Pct".
    """
    ground = _of_soil(soil)._param_struct.Soil
    wilting, available = np.zeros((2, len(ground.Profile.dz)))
    for layer, row in ground.Hydrology.iterrows():
        wilting[ground.Profile.Layer == layer] = row.th_wp
        available[ground.Profile.Layer == layer] = row.th_fc - row.th_wp
    return wilting, available
