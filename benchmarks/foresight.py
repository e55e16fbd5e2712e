"""What is left to gain from better irrigation advice: by knowing the field, a forecast, or the season to come.

``python -m benchmarks.foresight`` in a folder where the weather stage has run prints a table and writes
``metrics/bench/foresight.json``. The standard field in every season of Champion; of K folds each is farmed by what is
tuned and known from the others: the day curve on the field's true state, then a planner that follows each dose through
every known year each morning (``tasks.study.foresight``), then the same planner with forecasts, then the best depths
found by search with the season's weather known. With and without a limit of water. No sensors, no nets: crops are
simulated, the weather is observed, and so is what a forecast is made from; its error is modelled.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from benchmarks.machine import describe
from tasks.crops.interface import FloatArray, Harvest
from tasks.durable import write_json
from tasks.params import Params
from tasks.policies.money import profit_usd_ha
from tasks.progress import track
from tasks.sources.daily import read_sites
from tasks.study import play
from tasks.study.baselines import known_and_tested, rules_for_the_standard_field
from tasks.study.folds import Plan, fold_params, params_of
from tasks.study.foresight import Forecast, by_truth, planned
from tasks.study.hindsight import best_depths_mm
from tasks.study.run import LIMIT_MM, STANDARD

PLANNERS = {
    "planner": None,
    "planner_with_forecast": Forecast(5, 0.8),
    "planner_with_perfect_forecast": Forecast(5, 1.0),
}
LATEST = range(2009, 2019)
PEERS = ("day_curve", "planner")


def one_fold(fold: int, folds: int, limit_mm: float | None) -> dict[str, dict[int, float]]:
    """Profit of every tested season by who knows what, USD/ha."""
    plain = fold_params(Path(), Plan(folds=folds, changes=STANDARD), fold)
    plain["rules"]["irrigation"]["season_limit_mm"] = limit_mm
    with TemporaryDirectory() as folder:
        params = params_of(Path(folder), plain)
    sites = read_sites(params)
    known, tested = known_and_tested("maize", params, sites)
    days = params.fields.maize.season_days
    rule = rules_for_the_standard_field(known, days, params, ("estimates",))["day_curve", "estimates"]
    fields = play.maize_fields(tested, days)
    depths, by_rule = by_truth(fields, tested, rule)
    earned = {"day_curve": _profit(by_rule, params)}
    for name, forecast in PLANNERS.items():
        earned[name] = _profit(planned(fields, tested, known, rule, params, forecast), params)
    earned["hindsight"] = best_depths_mm(fields, tested, depths, params.prices, season_limit_mm=limit_mm)[1]
    seasons = [field.season for field in fields]
    return {who: dict(zip(seasons, profit.tolist(), strict=True)) for who, profit in earned.items()}


def _profit(harvest: Harvest, params: Params) -> FloatArray:
    return profit_usd_ha("maize", harvest, params.prices)


def summary(found: Sequence[dict[str, dict[int, float]]]) -> dict[str, Any]:
    """Means over seasons; gains over the rule and the planner, paired by season, with standard errors; USD/ha."""
    by_season = {who: {season: profit for fold in found for season, profit in fold[who].items()} for who in found[0]}
    seasons, told = sorted(by_season["day_curve"]), {}
    for who, profits in by_season.items():
        latest = [profits[season] for season in LATEST if season in profits]
        told[who] = {
            "mean_usd_ha": round(float(np.mean(list(profits.values()))), 1),
            "mean_2009_2018_usd_ha": round(float(np.mean(latest)), 1),
            **{f"over_{peer}": _gain(profits, by_season[peer]) for peer in PEERS},
        }
    by_season_usd_ha = {who: [round(profits[season], 2) for season in seasons] for who, profits in by_season.items()}
    return {"seasons": seasons, "by_who": told, "by_season_usd_ha": by_season_usd_ha}


def _gain(profits: Mapping[int, float], peer: Mapping[int, float]) -> dict[str, float]:
    gains = {season: profits[season] - peer[season] for season in sorted(peer)}
    worst = min(gains, key=lambda season: gains[season])
    return {
        "gain_usd_ha": round(float(np.mean(list(gains.values()))), 1),
        "gain_se_usd_ha": round(float(np.std(list(gains.values()), ddof=1) / math.sqrt(len(gains))), 1),
        "worst_season": worst,
        "worst_usd_ha": round(gains[worst], 1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foresight", description=__doc__.partition("\n")[0])
    parser.add_argument("--folds", type=int, default=4, help="folds of seasons")
    options = parser.parse_args()
    worlds = {"no_limit": None, f"limit_{LIMIT_MM:g}_mm": LIMIT_MM}
    jobs = [(fold, options.folds, limit) for limit in worlds.values() for fold in range(options.folds)]
    with Parallel(n_jobs=-1, return_as="generator") as workers:
        parts = list(track(workers(delayed(one_fold)(*job) for job in jobs), total=len(jobs), label="foresight: folds"))
    found: dict[str, Any] = {"machine": describe(), "folds": options.folds}
    for i, world in enumerate(worlds):
        found[world] = summary(parts[i * options.folds : (i + 1) * options.folds])
        print(f"\n{world}, {len(found[world]['seasons'])} seasons, USD/ha (crop simulated, weather observed)")
        for who, said in found[world]["by_who"].items():
            rule, planner = (said[f"over_{peer}"] for peer in PEERS)
            print(
                f"{who:30} {said['mean_usd_ha']:7.1f}   2009-2018 {said['mean_2009_2018_usd_ha']:7.1f}"
                f"   over the rule {rule['gain_usd_ha']:+6.1f} ± {rule['gain_se_usd_ha']:.1f}"
                f" (worst {rule['worst_usd_ha']:+.0f} in {rule['worst_season']})"
                f"   over the planner {planner['gain_usd_ha']:+6.1f} ± {planner['gain_se_usd_ha']:.1f}"
            )
    write_json(Path("metrics/bench/foresight.json"), found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
