"""Run maize seasons on the aquacrop package as installed and print what they were, in hexadecimal floats.

A program of its own, so that nothing this project substitutes can reach it: the reference of test_maize.py. Reads a
JSON list of cases from standard input.
"""

import json
import math
import sys
from datetime import date

import aquacrop
import pandas as pd
from aquacrop.solution.root_zone_water import root_zone_water
from aquacrop.utils import get_filepath, prepare_weather


def depth_mm(method: str, day: int, depletion_frac: float, taw_mm: float) -> float:
    if method == "rainfed":
        return 0.0
    if method == "weekly":
        return 25.0 if day % 7 == 6 else 0.0
    limit = {"threshold": 25.0, "heavy": 60.0}[method]
    return min(limit, depletion_frac * taw_mm) if depletion_frac > 0.5 else 0.0


def open_model(case: dict, weather: pd.DataFrame) -> aquacrop.AquaCropModel:
    sown = date.fromisoformat(case["sowing_date"])
    layers = list(range(1, aquacrop.Soil(case["soil"]).nLayer + 1))
    more = {"MaxIrr": 100.0} if case["method"] == "heavy" else {}
    model = aquacrop.AquaCropModel(
        f"{sown:%Y/%m/%d}",
        f"{sown.year}/12/31",
        weather,
        aquacrop.Soil(case["soil"]),
        aquacrop.Crop("Maize", planting_date=f"{sown:%m/%d}"),
        aquacrop.InitialWaterContent(
            wc_type="Pct", depth_layer=layers, value=[100 * case["initial_water_frac"]] * len(layers)
        ),
        aquacrop.IrrigationManagement(5, depth=0, **more),
    )
    model._initialize()
    return model


def season(case: dict, weather: pd.DataFrame) -> dict:
    model, mornings, total = open_model(case, weather), [], 0.0
    for day in range(case["season_days"]):
        state, soil, crop = model._init_cond, model._param_struct.Soil, model._param_struct.Seasonal_Crop_List[0]
        water = root_zone_water(soil.Profile, float(state.z_root), state.th, soil.z_top, float(crop.Zmin), crop.Aer)
        frac, taw = float(water[2] / water[4]), float(water[4])
        lai = abs(math.log1p(-float(state.canopy_cover)) / 0.65)
        mornings.append([float(x).hex() for x in (frac, taw, lai, state.biomass / 100)])
        depth = float(depth_mm(case["method"], day, frac, taw))
        model._param_struct.IrrMngt.depth = depth
        model.run_model(initialize_model=False)
        model._param_struct.IrrMngt.depth = 0
        total += depth
        if model._clock_struct.model_is_finished:
            break
    state = model._init_cond
    return {
        "mornings": mornings,
        "yield_t_ha": float(state.DryYield).hex(),
        "irrigation_mm": total.hex(),
        "taken_mm": float(state.irr_cum).hex(),
        "matured": bool(state.crop_mature),
    }


def main() -> None:
    assert root_zone_water.__module__ == "aquacrop.solution.root_zone_water"
    weather = prepare_weather(get_filepath("champion_climate.txt"))
    json.dump([season(case, weather) for case in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
