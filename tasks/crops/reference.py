"""The crop packages themselves, untouched and slow: what the kernels of this project are held to.

``maize_season`` runs ``aquacrop``, ``pcse_seasons`` runs ``pcse``. Nothing here is used to make data; tests, the check
of each generation (``tasks.seasons.check``) and ``python -m benchmarks.crops`` compare with it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tasks.crops.interface import DailyWeather, Field, FloatArray

Irrigate = Callable[[int, float, float], float]
"""From day, depletion as a share of available water, and available water in mm, to a depth in mm."""
_EXTINCTION = 0.65
_PCSE_WEATHER = ("radiation_mj_m2", "tmin_c", "tmax_c", "vapour_pressure_kpa", "wind_m_s", "rain_mm")
_UNLIMITED_MM = 1e9


@dataclass(frozen=True, eq=False)
class MaizeReference:
    """One maize season of the package.

    Args:
        mornings: [n_mornings, 4]: depletion as a share of available water, available water mm, leaf area index,
            biomass t/ha.
        yield_t_ha: dry grain.
        irrigation_mm: what was decided.
        taken_mm: what the package says it took.
        matured: False if it died or was cut off.
    """

    mornings: FloatArray
    yield_t_ha: float
    irrigation_mm: float
    taken_mm: float
    matured: bool


def plain_numpy() -> dict[str, str]:
    """The environment of a process whose NumPy takes exp and log from the C library, as compiled code does.

    NumPy's vector instructions round some last digits otherwise, and other processors have others. The package rounds
    water to 0.01 mm, so that now and then a last digit becomes as much. A process that compares shall not start so.
    """
    core = import_module("numpy._core._multiarray_umath")
    found = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    return {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(found)}


def maize_season(field: Field, weather: DailyWeather, irrigate: Irrigate) -> MaizeReference:
    """Run a field's season on ``aquacrop`` as installed, one day at a time."""
    from aquacrop.solution.root_zone_water import (
        root_zone_water,
    )

    model, mornings, total_mm = _open(field, weather), [], 0.0
    for day in range(field.season_days):
        state, soil, crop = model._init_cond, model._param_struct.Soil, model._param_struct.Seasonal_Crop_List[0]
        water = root_zone_water(soil.Profile, float(state.z_root), state.th, soil.z_top, float(crop.Zmin), crop.Aer)
        frac, taw_mm = float(water[2] / water[4]), float(water[4])
        lai = abs(math.log1p(-float(state.canopy_cover)) / _EXTINCTION)
        mornings.append([frac, taw_mm, lai, float(state.biomass) / 100])
        depth_mm = float(irrigate(day, frac, taw_mm))
        model._param_struct.IrrMngt.depth = depth_mm
        model.run_model(initialize_model=False)
        model._param_struct.IrrMngt.depth = 0
        total_mm += depth_mm
        if model._clock_struct.model_is_finished:
            break
    state = model._init_cond
    taken_mm, matured = float(state.irr_cum), bool(state.crop_mature)
    return MaizeReference(np.array(mornings), float(state.DryYield), total_mm, taken_mm, matured)


def _open(field: Field, weather: DailyWeather) -> Any:
    import pandas as pd
    from aquacrop.core import AquaCropModel
    from aquacrop.entities.crop import Crop
    from aquacrop.entities.inititalWaterContent import InitialWaterContent
    from aquacrop.entities.irrigationManagement import IrrigationManagement
    from aquacrop.entities.soil import Soil

    sown, soil = field.sowing_date, Soil(field.soil)
    layers = list(range(1, soil.nLayer + 1))
    columns = {
        "MinTemp": weather.tmin_c,
        "MaxTemp": weather.tmax_c,
        "Precipitation": weather.rain_mm,
        "ReferenceET": np.maximum(weather.et0_mm, 0.1),
    }
    dates = pd.date_range(weather.first_day, periods=len(weather.rain_mm))
    last = min(sown + timedelta(days=max(field.season_days, 200)), dates[-1].date())
    model = AquaCropModel(
        f"{sown:%Y/%m/%d}",
        f"{last:%Y/%m/%d}",
        pd.DataFrame({**columns, "Date": dates}),
        soil,
        Crop("Maize", planting_date=f"{sown:%m/%d}"),
        InitialWaterContent("Pct", "Layer", layers, [100 * field.initial_water_frac] * len(layers)),
        IrrigationManagement(5, depth=0, MaxIrr=_UNLIMITED_MM, MaxIrrSeason=_UNLIMITED_MM),
    )
    model._initialize()
    return model


def pcse_case(field: Field, doses: Mapping[int, float]) -> dict[str, Any]:
    """What pcse is told of a wheat field and its doses, kg/ha by day: its own names, g/m2, water as contents."""
    from tasks.crops.wheat import FERTILISER_RECOVERY, SOILS

    soil = SOILS[field.soil]
    water = soil["WCWP"] + field.initial_water_frac * (soil["WCFC"] - soil["WCWP"])
    # pcse forgets all but the last dose of a day, so what comes on the first day comes in one.
    first = field.mineral_n_kg_ha / 10 + doses.get(0, 0.0) / 10 * FERTILISER_RECOVERY
    later = [(field.sowing_date + timedelta(days=d), n / 10, FERTILISER_RECOVERY) for d, n in doses.items() if d > 0]
    rain_fed = {"IRRIGF": False, "WMFAC": False, "WCI": water, "WCSUBS": water}
    return {
        "emergence": field.sowing_date.isoformat(),
        "season_days": field.season_days,
        "events": [(str(day), n, share) for day, n, share in [(field.sowing_date, first, 1.0), *later]],
        "parameters": {**soil, **rain_fed, "RNMIN": field.mineralisation_kg_ha_d / 10},
    }


def pcse_seasons(seasons: list[dict[str, Any]], folder: Path, days: list[list[Any]] | None = None) -> dict[str, Any]:
    """Run pcse as installed, with a home folder of its own, for it writes there.

    Args:
        seasons: of ``pcse_case``.
        folder: an empty one.
        days: to work out potential evaporation for; see ``tasks.crops.pcse_program``.

    Returns:
        ``seasons``: for each its values by pcse's name, shape (n_mornings,); ``days``, ``weather`` and ``place``.

    Raises:
        RuntimeError: pcse failed, with what it said.
    """
    (folder / "cabo").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("pcse_program.py")),
            str(folder / "out.json"),
            str(folder / "cabo"),
        ],
        input=json.dumps({"seasons": seasons, "days": days or []}),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "USER": "headland"},
    )
    if done.returncode:
        raise RuntimeError(f"pcse ended with {done.returncode}: {done.stderr}")
    answer: dict[str, Any] = json.loads((folder / "out.json").read_text())
    answer["seasons"] = [
        {name: np.array([float.fromhex(row[name]) for row in rows]) for name in rows[0]} for rows in answer["seasons"]
    ]
    for values in answer["seasons"]:
        values["NLOSS"] = values["NLOSSL"] + values["NLOSSR"]
    return answer


def pcse_weather(answer: Mapping[str, Any], site: str) -> DailyWeather:
    """The weather pcse ran on, NaN on days it has none; ``answer`` is of ``pcse_seasons``."""
    first, last = (date.fromisoformat(answer["weather"][i][0]) for i in (0, -1))
    values = np.full(((last - first).days + 1, len(_PCSE_WEATHER)), np.nan)
    for day, *cells in answer["weather"]:
        known = [float.fromhex(cell) for cell in cells[: len(_PCSE_WEATHER)]]
        values[(date.fromisoformat(day) - first).days] = known
    latitude, longitude, elevation = answer["place"]
    return DailyWeather(
        site,
        first,
        et0_mm=np.full(len(values), np.nan),
        latitude_deg=latitude,
        longitude_deg=longitude,
        elevation_m=elevation,
        **{name: values[:, i] for i, name in enumerate(_PCSE_WEATHER)},
    )
