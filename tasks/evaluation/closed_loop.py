"""Closed loop on anyone's weather: the bundle farms beside the growers' rules, and the money is counted.

``python -m tasks.evaluation.closed_loop --bundle B --weather FILE [--weather-format nasa-power|headland] --json``
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.crops.fields import draw_fields
from tasks.crops.interface import Crop, Field
from tasks.evaluation.arena import DEVICE, POLICY_NAMES, STRONG, Arena, play_all
from tasks.evaluation.statistics import paired_by_season
from tasks.params import Params

MONEY = ("profit_usd_ha", "yield_t_ha", "irrigation_mm", "nitrogen_kg_ha")


class UnripeError(ValueError):
    """No crop ripened within its season; the message says what to change."""


def groups_of(
    crop: Crop, site: str, seasons: list[int], per_season: int, params: Params, soil: str | None = None
) -> list[tuple[Field, ...]]:
    """Fields of each season, one group a season."""
    ranges = params.fields.of(crop)
    return [draw_fields(crop, site, [season], per_season, ranges, params.seed + 1, soil) for season in seasons]


def summary(rows: pl.DataFrame) -> dict[str, Any]:
    """Money, water, nitrogen and yield of each policy, and the device's gain over each, paired by season.

    A field whose crop was not ripe when its season was over, under any policy, is named and counts for none.

    Args:
        rows: of one crop and scene, as ``play_all`` returns them.

    Raises:
        UnripeError: no field is left.
    """
    crop: Crop = rows["crop"][0]
    cut_off = sorted(set(rows.filter("cut_off")["field_id"].to_list()))
    rows = rows.filter(~pl.col("field_id").is_in(cut_off))
    if rows.is_empty():
        told = f"{crop}: not one of {len(cut_off)} fields was ripe at the end"
        raise UnripeError(f"{told}; raise fields.{crop}.season_days")
    policies = {}
    gains = {}
    device = rows.filter(pl.col("policy") == DEVICE).sort("field_id")
    for name in POLICY_NAMES[crop]:
        here = rows.filter(pl.col("policy") == name).sort("field_id")
        policies[name] = {column: float(here[column].mean()) for column in MONEY}  # type: ignore[arg-type]
        if name != DEVICE:
            difference = (device["profit_usd_ha"] - here["profit_usd_ha"]).to_numpy()
            where = here.select(pl.format("{}/{}", "site", "season")).to_series().to_numpy()
            gains[name] = paired_by_season(difference, where).as_dict()
    seasons = rows.group_by("season", "policy").agg(pl.col("profit_usd_ha").mean()).sort("season", "policy")
    by_season: dict[str, dict[str, float]] = {}
    for season, policy, money in seasons.iter_rows():
        by_season.setdefault(str(season), {})[policy] = round(money, 2)
    return {
        "fields": device.height,
        "cut_off_fields": cut_off,
        "strong_baseline": STRONG[crop],
        "policies": policies,
        "gain_usd_ha": gains,
        "profit_usd_ha_by_season": by_season,
        "refused_mornings_per_field": float(np.mean(device["refused_mornings"].to_numpy())),
        "fallback_mornings_per_field": float(np.mean(device["fallback_mornings"].to_numpy())),
    }


def positive(word: str) -> int:
    """A whole number from 1 up, for the command line."""
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a number from 1 up")
    return value


def main(argv: list[str] | None = None) -> int:
    """Run by hand; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.evaluation.closed_loop", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle file")
    parser.add_argument("--weather", type=Path, required=True, help="daily weather, one row a day")
    parser.add_argument("--weather-format", choices=("nasa-power", "headland"), default="headland")
    parser.add_argument(
        "--latitude-deg", type=float, help="degrees north; taken from a NASA POWER file's name if absent"
    )
    parser.add_argument("--longitude-deg", type=float, default=0.0)
    parser.add_argument("--elevation-m", type=float, default=100.0)
    parser.add_argument("--crop", choices=("maize", "wheat", "both"), default="both")
    parser.add_argument("--seasons", type=positive, default=10, help="how many of the latest complete seasons")
    parser.add_argument("--fields", type=positive, default=4, help="fields in each season")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return run(parser.parse_args(argv))


def run(options: argparse.Namespace) -> int:
    """Farm the weather named by ``options`` and print the result."""
    from headland_edge.bundle import BundleError, open_bundle

    from tasks.params import ParamsError, load
    from tasks.sources.daily import read_any
    from tasks.sources.schema import WeatherError

    try:
        params = load(options.params)
        site = read_any(
            options.weather, options.weather_format, options.latitude_deg, options.longitude_deg, options.elevation_m
        )
        bundle = open_bundle(options.bundle)
        result = {}
        for crop in ("maize", "wheat") if options.crop == "both" else (options.crop,):
            ranges = params.fields.of(crop)
            seasons = site.seasons(ranges.sowing_day[1] + ranges.season_days)[-options.seasons :]
            if not seasons:
                raise WeatherError(f"{options.weather}: holds no complete season of {crop}")
            groups = groups_of(crop, site.name, seasons, options.fields, params)
            weather = {f"{site.name}/{season}": site.season_weather(season) for season in seasons}
            rows, _ = play_all(groups, Arena(options.bundle, bundle.manifest.policy, params, weather))
            result[crop] = summary(rows)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 7
    except (WeatherError, ParamsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2) if options.json else table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result as lines for a terminal."""
    lines = []
    for crop, found in result.items():
        lines.append(f"{crop}: {found['fields']} field seasons, mean USD/ha")
        lines += [f"  {name:18s} {row['profit_usd_ha']:9.1f}" for name, row in found["policies"].items()]
        lines += [
            f"  device over {name:18s} {gain['mean']:+7.1f}  (95 % {gain['low_95']:+.1f} to {gain['high_95']:+.1f})"
            for name, gain in found["gain_usd_ha"].items()
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
