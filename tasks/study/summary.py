"""What the study found: paired differences over seasons with their standard errors, nothing averaged away.

The season is the independent draw: fields, sensors' errors and seeds of one season are averaged first.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.crops.interface import FloatArray
from tasks.packaging.lineage import git_commit
from tasks.study.folds import Plan

RECENT = (2009, 2018)
_KEY = ("site", "season")


def summary(rows: pl.DataFrame, root: Path, plan: Plan, unripe: Sequence[str] = ()) -> dict[str, Any]:
    """All figures of ``metrics/study.json``.

    Args:
        rows: of all folds; see ``tasks.study.play.rows_of``.
        root: of the project.
        plan: what was done.
        unripe: keys (``site/season``) of wheat seasons that end before the crop is ripe: named, and counted nowhere.
    """
    key = pl.format("{}/{}", "site", "season")
    rows = rows.filter(~((pl.col("scene") == "wheat") & key.is_in(list(unripe))))
    return {
        "command": f"python -m tasks.study.run --folds {plan.folds} --seeds {len(plan.seeds)}",
        "commit": git_commit(root),
        "machine": {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"},
        "observed": "weather of Champion 1982-2018, Wageningen 1976-1999, and the sites named",
        "simulated": "crops (AquaCrop maize, LINTUL3 wheat), soils, sensors with noise, drift and outages",
        "unripe_wheat_seasons": sorted(unripe),
        "folds": plan.folds,
        "seeds": list(plan.seeds),
        "irrigation": irrigation(rows.filter(pl.col("scene") != "wheat")),
        "nitrogen": nitrogen(rows.filter(pl.col("scene") == "wheat")),
    }


def by_season(rows: pl.DataFrame, column: str = "profit_usd_ha") -> pl.DataFrame:
    """Means of ``column`` by season and policy: one row a season, one column a policy."""
    means = rows.group_by(*_KEY, "policy").agg(pl.col(column).mean())
    return means.pivot(on="policy", index=_KEY, values=column).sort(_KEY)


def gain(table: pl.DataFrame, other: str, policy: str = "device") -> dict[str, Any]:
    """Paired difference over seasons, with its standard error and its worst season."""
    both = table.drop_nulls([policy, other])
    difference = (both[policy] - both[other]).to_numpy()
    worst = int(np.argmin(difference))
    return {
        "mean": _short(difference.mean()),
        "se": _short(_error(difference)),
        "seasons": int(difference.size),
        "worst_usd_ha": _short(difference[worst]),
        "worst_season": f"{both['site'][worst]} {both['season'][worst]}",
    }


def irrigation(rows: pl.DataFrame) -> dict[str, Any]:
    """Maize on the standard field, and everywhere else."""
    standard = rows.filter(pl.col("scene") == "standard")
    table = by_season(standard)
    recent = table.filter(pl.col("season").is_between(*RECENT))
    four, curve = gain(table, "four_stage/estimates"), gain(table, "day_curve/estimates")
    water, harvest = by_season(standard, "irrigation_mm"), by_season(standard, "yield_t_ha")
    limited = by_season(rows.filter(pl.col("scene") == "limit 150 mm"))
    best = max(_baselines(limited), key=lambda name: _mean(limited, name))
    cap = gain(limited, best)
    return {
        "gain_over_four_stage_usd_ha": four["mean"],
        "gain_over_four_stage_usd_ha_se": four["se"],
        "gain_over_day_curve_usd_ha": curve["mean"],
        "gain_over_day_curve_usd_ha_se": curve["se"],
        "usd_ha_2009_2018": _mean(recent, "device"),
        "usd_ha_2009_2018_se": _short(_error(recent["device"].to_numpy())),
        "share_of_gap_to_hindsight": _gap(table, "four_stage/estimates"),
        "gains": {name: gain(table, name) for name in _baselines(table)},
        "gains_2009_2018": {name: gain(recent, name) for name in _baselines(recent)},
        "by_seed": _by_seed(standard, "four_stage/estimates"),
        "mean_usd_ha": _means(table),
        "mean_usd_ha_2009_2018": _means(recent),
        "water_mm": _means(water),
        "yield_t_ha": _means(harvest),
        "by_season_usd_ha": {
            str(row["season"]): {name: _short(row[name]) for name in (*_baselines(table), "device", "hindsight")}
            for row in table.iter_rows(named=True)
        },
        "standard_field_by_the_bundle_across_soils": _scenes(rows, "standard across").get("", {}),
        "soils": _each(rows.filter(pl.col("scene") == "soils"), "soil"),
        "starting_water": _each(rows.filter(pl.col("scene") == "water"), "water_frac"),
        "noise": _scenes(rows, "noise x"),
        "unseen_sites": _scenes(rows, "site "),
        "limit_150_mm": {
            "gain_over_best_rule_usd_ha": cap["mean"],
            "gain_over_best_rule_usd_ha_se": cap["se"],
            "best_rule": best,
            "gains": {name: gain(limited, name) for name in _baselines(limited)},
            "mean_usd_ha": _means(limited),
        },
    }


def nitrogen(rows: pl.DataFrame) -> dict[str, Any]:
    """Wheat on rain-fed fields."""
    table, dose = by_season(rows), by_season(rows, "nitrogen_kg_ha")
    fixed, test = gain(table, "best_fixed"), gain(table, "soil_test")
    closed, error = _share(table, "best_fixed")
    return {
        "gap_closed_frac": closed,
        "gap_closed_frac_se": error,
        "gain_over_soil_test_usd_ha": test["mean"],
        "gain_over_soil_test_usd_ha_se": test["se"],
        "gain_over_best_fixed_usd_ha": fixed["mean"],
        "gain_over_best_fixed_usd_ha_se": fixed["se"],
        "gains": {"best_fixed": fixed, "soil_test": test},
        "by_seed": _by_seed(rows, "soil_test", paired=True),
        "mean_usd_ha": _means(table),
        "nitrogen_kg_ha": {name: value for name, value in _means(dose).items() if name != "hindsight"},
        "by_season_usd_ha": {
            str(row["season"]): {name: _short(row[name]) for name in ("best_fixed", "soil_test", "device", "hindsight")}
            for row in table.iter_rows(named=True)
        },
    }


def _baselines(table: pl.DataFrame) -> list[str]:
    return sorted(name for name in table.columns if "/" in name)


def _each(rows: pl.DataFrame, column: str) -> dict[str, Any]:
    """Gains over the four-stage threshold tuned for each value of ``column``, and over the bundle's own rule."""
    others = {"readings": "four_stage/readings", "estimates": "four_stage/estimates", "own_rule": "own_rule/estimates"}
    found = {}
    for (value,), part in rows.sort(column).group_by(column, maintain_order=True):
        table = by_season(part)
        found[f"{value:g}" if isinstance(value, float) else str(value)] = {
            name: gain(table, other) for name, other in others.items()
        }
    return found


def _scenes(rows: pl.DataFrame, prefix: str) -> dict[str, Any]:
    names = sorted(set(rows.filter(pl.col("scene").str.starts_with(prefix))["scene"].to_list()))
    found = {}
    for name in names:
        table = by_season(rows.filter(pl.col("scene") == name))
        found[name.removeprefix(prefix)] = {other: gain(table, other) for other in _baselines(table)}
    return found


def _by_seed(rows: pl.DataFrame, other: str, paired: bool = False) -> dict[str, Any]:
    """The gain of each seed's nets alone."""
    found = {}
    for seed in sorted(set(rows.filter(pl.col("policy") == "device")["seed"].to_list())):
        device = (pl.col("policy") == "device") & (pl.col("seed") == seed)
        baseline = (pl.col("policy") == other) & ((pl.col("seed") == seed) if paired else pl.lit(True))
        found[str(seed)] = gain(by_season(rows.filter(device | baseline)), other)
    return found


def _share(table: pl.DataFrame, start: str) -> tuple[float, float]:
    """Share of the way from ``start`` to hindsight, and its error by leaving one season out (jackknife)."""
    won = (table["device"] - table[start]).to_numpy()
    whole = (table["hindsight"] - table[start]).to_numpy()
    share = won.sum() / whole.sum()
    left = (won.sum() - won) / (whole.sum() - whole)
    error = np.sqrt((left.size - 1) / left.size * ((left - left.mean()) ** 2).sum())
    return _short(share, 3), _short(error, 3)


def _gap(table: pl.DataFrame, start: str) -> dict[str, float]:
    share, error = _share(table.drop_nulls("hindsight"), start)
    return {"mean": share, "se": error}


def _error(values: FloatArray) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0


def _mean(table: pl.DataFrame, column: str) -> float:
    return _short(float(table[column].to_numpy().mean()))


def _means(table: pl.DataFrame) -> dict[str, float]:
    """By policy; one that has no such figure is left out."""
    known = [name for name in sorted(table.columns) if name not in _KEY and table[name].null_count() < table.height]
    return {name: _short(float(table[name].drop_nulls().to_numpy().mean())) for name in known}


def _short(value: float, digits: int = 2) -> float:
    return round(float(value), digits)
