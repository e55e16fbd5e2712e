"""A random sample of the seasons just made, farmed once more on the crop packages themselves.

The kernels that make seasons are held to the packages in tests; this holds them to the packages on the data at hand, at
each generation, and counts what differs. Maize runs on the project's own weather; ``pcse`` runs on its own files, so
that wheat is compared on them, on fields and practices of the sample.

``python -m tasks.seasons.check``, started by the stage, because NumPy has to be told before it is loaded (see
``tasks.crops.reference.plain_numpy``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tasks import params as params_module
from tasks.crops.farm import SeasonLog, farm
from tasks.crops.fields import draw_fields, field_rng
from tasks.crops.interface import Crop, DailyWeather, Field, FloatArray
from tasks.crops.reference import maize_season, pcse_case, pcse_seasons, pcse_weather
from tasks.durable import write_json
from tasks.params import Params
from tasks.seasons.practices import Practices, draw_practice
from tasks.sources.daily import SiteWeather, read_sites
from tasks.stage_main import end_of_stage

CARD = Path("metrics/seasons.json")
CHECKED = 6
"""Fields of each crop, a season each."""
EQUAL = 1e-9
"""A season that differs by more on any value counts as an exception."""
_TRUTHS = ("depletion_frac", "taw_mm", "lai", "biomass_t_ha")
_GRAIN_T_HA, _BIOMASS = 100.0, ("WLVG", "WLVD", "WST", "WSO")


class CheckError(RuntimeError):
    """No season of the sample is what the package says; the message says which crop."""


def maize_differences(fields: tuple[Field, ...], weather: Mapping[str, DailyWeather], params: Params) -> list[float]:
    """The largest difference of each field's season to the package's, farmed as its grower did."""
    log = _farmed(fields, weather, params)
    differences = []
    for i, field in enumerate(fields):
        done_mm = log.irrigation_mm[i]
        package = maize_season(field, weather[field.site], lambda day, *_, mm=done_mm: float(mm[day]))
        mine = np.stack([log.truth[name][i, log.active[i]] for name in _TRUTHS], axis=1)
        differences.append(_apart(mine, package.mornings, float(log.harvest.yield_t_ha[i]), package.yield_t_ha))
    return differences


def wheat_differences(fields: tuple[Field, ...], params: Params) -> list[float]:
    """The same for wheat in years that ``pcse`` has weather for; leaf area, biomass and grain."""
    with TemporaryDirectory() as folder:
        whole, run = Path(folder) / "weather", Path(folder) / "run"
        whole.mkdir()
        run.mkdir()
        weather = pcse_weather(pcse_seasons([], whole), "pcse")
        known = tuple(field for field in fields if _is_known(field, weather))
        if not known:
            return []
        here = tuple(replace(field, site="pcse") for field in known)
        log = _farmed(here, {"pcse": weather}, params)
        cases = [
            pcse_case(
                field, {int(day): float(log.nitrogen_kg_ha[i, day]) for day in log.nitrogen_kg_ha[i].nonzero()[0]}
            )
            for i, field in enumerate(here)
        ]
        seasons = pcse_seasons(cases, run)["seasons"]
    differences = []
    for i, season in enumerate(seasons):
        mine = np.stack([log.truth[name][i, log.active[i]] for name in _TRUTHS[2:]], axis=1)
        biomass_t_ha = sum(season[name] for name in _BIOMASS) / _GRAIN_T_HA
        theirs = np.stack([season["LAI"], biomass_t_ha], axis=1)[:-1]
        grain_t_ha = float(season["WSO"][-1]) / _GRAIN_T_HA
        differences.append(_apart(mine, theirs, float(log.harvest.yield_t_ha[i]), grain_t_ha))
    return differences


def summary(differences: list[float]) -> dict[str, Any]:
    """``compared`` seasons, ``exceptions`` among them, ``largest_difference`` of the others.

    Raises:
        CheckError: several seasons were compared and every one differs.
    """
    equal = [each for each in differences if each <= EQUAL]
    if len(differences) > 1 and not equal:
        raise CheckError(
            f"none of {len(differences)} seasons is what the crop package says (differences from {min(differences):g});"
            " nothing made by this kernel is to be used. Delete the compiled model and run the crops' tests"
        )
    return {
        "compared": len(differences),
        "exceptions": len(differences) - len(equal),
        "largest_difference": max(equal, default=0.0),
    }


def _farmed(fields: tuple[Field, ...], weather: Mapping[str, DailyWeather], params: Params) -> SeasonLog:
    practices = Practices(tuple(draw_practice(field, params.seed) for field in fields))
    return farm(fields, weather, params.sensors, params.seed, practices)


def _apart(mine: FloatArray, theirs: FloatArray, grain_t_ha: float, package_grain_t_ha: float) -> float:
    if mine.shape != theirs.shape:
        return float("inf")
    return max(float(np.abs(mine - theirs).max()), abs(grain_t_ha - package_grain_t_ha))


def _is_known(field: Field, weather: DailyWeather) -> bool:
    start = (field.sowing_date - weather.first_day).days
    days = slice(start - 1, start + field.season_days + 1)
    return start > 0 and days.stop <= weather.tmin_c.size and bool(np.isfinite(weather.tmin_c[days]).all())


def jobs_of(params: Params, sites: dict[str, SiteWeather]) -> Iterator[tuple[Crop, str, int]]:
    """Every crop, site and season there is weather for."""
    for name, site in params.sites.items():
        for crop in site.crops:
            days = params.fields.of(crop).season_days + params.fields.of(crop).sowing_day[1]
            for season in sites[name].seasons(days):
                yield crop, name, season


def check(params: Params, weather_root: Path = Path("data/weather")) -> dict[str, dict[str, Any]]:
    """Farm ``CHECKED`` random fields of each crop once more on the crop package; by crop, see ``summary``."""
    sites = read_sites(params, weather_root)
    found: dict[str, dict[str, Any]] = {}
    jobs = list(jobs_of(params, sites))
    for crop in sorted({job[0] for job in jobs}):
        mine = [job for job in jobs if job[0] == crop]
        rng, ranges = field_rng(params.seed, crop, "check"), params.fields.of(crop)
        picked = [mine[i] for i in sorted(rng.choice(len(mine), min(CHECKED, len(mine)), replace=False).tolist())]
        drawn = [
            draw_fields(crop, site, [season], ranges.per_season, ranges, params.seed) for _, site, season in picked
        ]
        fields = [(each[int(rng.integers(len(each)))],) for each in drawn]
        if crop == "maize":
            by_field = [
                maize_differences(each, {site: sites[site].season_weather(season)}, params)
                for each, (_, site, season) in zip(fields, picked, strict=True)
            ]
            found[crop] = summary([each for part in by_field for each in part])
        else:
            found[crop] = summary(wheat_differences(tuple(field for each in fields for field in each), params))
    return found


def main() -> None:
    """Write the data card of the seasons in the current folder."""
    card = check(params_module.load())
    write_json(CARD, card)
    for crop, found in card.items():
        print(f"seasons: {found['compared']} of {crop} on the crop package: {found['exceptions']} differ")


if __name__ == "__main__":
    end_of_stage(main)
