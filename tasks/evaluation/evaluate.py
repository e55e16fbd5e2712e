"""Stage: what the shipped bundle would have earned on seasons it never saw, and how well its models knew them.

Weather is observed; crops and sensors are simulated. Three scenes: the seasons from as_of on where the crop is
grown ("home"), the same seasons on a soil no training field had ("other_soil"), and sites where no training
field of that crop lay ("other_site/<name>").
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from headland_edge.bundle import open_bundle
from headland_edge.records import Records, write_csv

from tasks import params as params_module
from tasks.crops.farm import SeasonLog
from tasks.crops.interface import Crop, DailyWeather, Field
from tasks.durable import replacing_dir, write_json
from tasks.evaluation.arena import DEVICE, STRONG, Arena, play_all
from tasks.evaluation.closed_loop import groups_of, summary
from tasks.evaluation.predictions import (
    at_mid_season,
    mid_season,
    predict,
    scores,
    scores_by,
    test_rows,
    training_yields,
)
from tasks.params import Params
from tasks.progress import track
from tasks.seasons.generate import SEASONS, daily_rows
from tasks.sources.daily import SiteWeather, read_sites
from tasks.stage_main import end_of_stage

PARAMS = (
    *("as_of", "test_seasons", "validation_every", "seed", "sites", "fields", "sensors", "prices"),
    *("models", "model", "evaluation"),
)
EVALUATION = Path("data/evaluation")
METRICS = Path("metrics/evaluate.json")
SAMPLE_DAY = 60


def bundle_file(params: Params) -> Path:
    """Where the season's bundle lies."""
    return Path("data/bundle") / f"headland-{params.as_of}.tar"


def scenes(params: Params, sites: dict[str, SiteWeather]) -> list[tuple[str, Crop, str, list[int], str | None]]:
    """Every closed loop to run: scene, crop, site, test seasons, forced soil."""
    found: list[tuple[str, Crop, str, list[int], str | None]] = []
    for name, site in params.sites.items():
        for crop in (*site.crops, *site.held_out_crops):
            ranges = params.fields.of(crop)
            seasons = sites[name].seasons(ranges.sowing_day[1] + ranges.season_days)
            test = list(params.split(name, seasons).test)
            if not test:
                print(f"{name}: no test season of {crop}; not farmed", file=sys.stderr)
            elif crop in site.crops:
                # The first site of a crop is its home; another one has scenes of its own.
                own = "" if not any(c == crop and s == "home" for s, c, *_ in found) else f"/{name}"
                found.append((f"home{own}", crop, name, test, None))
                found.append((f"other_soil{own}", crop, name, test, ranges.held_out_soil))
            else:
                found.append((f"other_site/{name}", crop, name, test, None))
    return found


def closed_loops(
    params: Params, sites: dict[str, SiteWeather], bundle: Path
) -> tuple[pl.DataFrame, dict[Crop, dict[str, Any]], dict[Crop, tuple[SeasonLog, SeasonLog]]]:
    """Farm every scene.

    Returns:
        All rows, the summaries by crop and scene, and for each crop the (device, strong baseline) logs of its
        first home season for the diary.
    """
    policies = open_bundle(bundle).manifest.policy
    parts: list[pl.DataFrame] = []
    summaries: dict[Crop, dict[str, Any]] = {}
    diaries: dict[Crop, tuple[SeasonLog, SeasonLog]] = {}
    wanted = scenes(params, sites)
    for scene, crop, site, seasons, soil in track(wanted, total=len(wanted), label="closed loop"):
        weather: dict[str, DailyWeather] = {f"{site}/{year}": sites[site].season_weather(year) for year in seasons}
        groups = groups_of(crop, site, seasons, params.evaluation.fields_per_season, params, soil)
        rows, logs = play_all(groups, Arena(bundle, policies, params, weather))
        parts.append(rows.with_columns(scene=pl.lit(scene)))
        summaries.setdefault(crop, {})[scene] = summary(rows)
        if scene == "home":
            first: tuple[Field, ...] = groups[min(3, len(groups) - 1)]
            diaries[crop] = (logs[DEVICE, first[0].field_id], logs[STRONG[crop], first[0].field_id])
    return pl.concat(parts), summaries, diaries


def knowledge(params: Params, bundle: Path, seasons: Path = SEASONS) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Predictions of every model on the test seasons, and their scores per season and soil."""
    opened = open_bundle(bundle)
    parts, found = [], {}
    for model in params.models:
        settings = params.model[model]
        rows = predict(opened, model, test_rows(seasons, model, params), f"truth_{settings.target}")
        found[model] = {
            "target": settings.target,
            "unit": settings.unit,
            **scores(rows),
            "by_season": scores_by(rows.with_columns(where=pl.format("{} {}", "site", "season")), "where"),
            "by_soil": scores_by(rows, "soil"),
        }
        if settings.target == "yield_t_ha":
            found[model]["mid_season_all"] = scores(at_mid_season(rows))
            found[model]["mid_season"] = mid_season(
                rows, training_yields(seasons, settings.crops, params), opened.manifest.models[model].target
            )
        parts.append(rows)
    return pl.concat(parts), found


def sample_records(log: SeasonLog) -> Records:
    """One field's records up to a morning on which something was advised, as its device holds them."""
    field = log.fields[0]
    done = log.irrigation_mm[0] + log.nitrogen_kg_ha[0]
    days = np.flatnonzero(done > 0)
    last = int(days[days.size // 2]) if days.size else SAMPLE_DAY
    return Records(field.crop, field.sowing_date, log.records[0, : last + 1])


def main() -> None:
    """Run the stage in the current folder."""
    params = params_module.load()
    sites = read_sites(params, Path("data/weather"))
    bundle = bundle_file(params)
    predictions, models = knowledge(params, bundle)
    rows, loops, diaries = closed_loops(params, sites, bundle)
    with replacing_dir(EVALUATION) as aside:
        predictions.write_parquet(aside / "predictions.parquet")
        rows.write_parquet(aside / "closed_loop.parquet")
        for crop, logs in diaries.items():
            for name, log in zip((DEVICE, STRONG[crop]), logs, strict=True):
                diary = daily_rows(log, [name] * len(log.fields))
                diary.write_parquet(aside / f"diary_{crop}_{name}.parquet")
            write_csv(aside / f"records_{crop}.csv", sample_records(logs[0]))
    write_json(METRICS, {"as_of": params.as_of, "models": models, "closed_loop": loops})
    for crop, found in loops.items():
        gain = found["home"]["gain_usd_ha"][STRONG[crop]]
        print(f"{crop}: device {gain['mean']:+.1f} ± {gain['standard_error']:.1f} USD/ha over {STRONG[crop]}")


if __name__ == "__main__":
    end_of_stage(main)
