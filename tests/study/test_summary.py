"""Figures of the study from rows made up so that the answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.report.study_section import section
from tasks.study.folds import Plan
from tasks.study.summary import by_season, gain, irrigation, nitrogen, summary

SEASONS = range(2005, 2019)
MAIZE = (
    "four_stage/readings",
    "four_stage/estimates",
    "day_curve/readings",
    "day_curve/estimates",
    "own_rule/estimates",
)


def rows(scene: str, policy: str, profit: float, soil: str = "Loam", water: float = 0.7, seed: int = 0, spread=0.0):
    """One field a season; ``spread`` moves odd seasons up and even ones down."""
    return pl.DataFrame(
        {
            "scene": [scene] * len(SEASONS),
            "policy": [policy] * len(SEASONS),
            "site": ["champion"] * len(SEASONS),
            "season": list(SEASONS),
            "soil": [soil] * len(SEASONS),
            "water_frac": [water] * len(SEASONS),
            "field_id": [f"f{year}" for year in SEASONS],
            "profit_usd_ha": [profit + (spread if year % 2 else -spread) for year in SEASONS],
            "yield_t_ha": [12.0] * len(SEASONS),
            "irrigation_mm": [200.0] * len(SEASONS),
            "nitrogen_kg_ha": [70.0] * len(SEASONS),
            "seed": [seed] * len(SEASONS),
        }
    )


def made_up() -> pl.DataFrame:
    parts = [rows("standard", "hindsight", 640.0)]
    parts += [rows("standard", "device", 600.0, seed=seed, spread=4.0) for seed in (1, 2, 3)]
    parts += [rows("standard", name, 580.0 + i) for i, name in enumerate(MAIZE)]
    parts += [rows("limit 150 mm", "device", 560.0)] + [rows("limit 150 mm", name, 530.0) for name in MAIZE]
    for scene in ("standard across", "noise x0", "noise x2", "site tunis"):
        parts += [rows(scene, "device", 590.0)] + [rows(scene, name, 585.0) for name in MAIZE]
    for scene, values in (("soils", ("Loam", "Clay")), ("water", (0.3, 1.0))):
        for value in values:
            at = {"soil": value} if scene == "soils" else {"water": value}
            parts += [rows(scene, "device", 590.0, **at)]
            parts += [rows(scene, f"four_stage/{kind}", 580.0, **at) for kind in ("readings", "estimates")]
            parts += [rows(scene, "own_rule/estimates", 588.0, **at)]
    for seed in (1, 2, 3):
        for policy, profit in (
            ("device", 1551.0),
            ("best_fixed", 1533.0),
            ("soil_test", 1545.0),
            ("hindsight", 1573.0),
        ):
            parts.append(rows("wheat", policy, profit, seed=seed))
    return pl.concat(parts)


def test_gains_are_paired_by_season_with_their_error():
    table = by_season(made_up().filter(pl.col("scene") == "standard"))
    found = gain(table, "four_stage/readings")
    assert found["mean"] == 20.0
    assert found["se"] == pytest.approx(4.0 * np.sqrt(14 / 13) / np.sqrt(14), abs=0.01)
    assert found["worst_usd_ha"] == 16.0
    assert found["seasons"] == 14


def test_irrigation_holds_what_was_asked_for():
    found = irrigation(made_up().filter(pl.col("scene") != "wheat"))
    assert found["gain_over_four_stage_usd_ha"] == 19.0
    assert found["gain_over_day_curve_usd_ha"] == 17.0
    assert found["usd_ha_2009_2018"] == 600.0
    assert found["limit_150_mm"]["gain_over_best_rule_usd_ha"] == 30.0
    assert found["share_of_gap_to_hindsight"]["mean"] == pytest.approx(19 / 59, abs=1e-3)
    assert set(found["soils"]) == {"Clay", "Loam"}
    assert found["starting_water"]["0.3"]["readings"]["mean"] == 10.0
    assert found["starting_water"]["0.3"]["own_rule"]["mean"] == 2.0
    assert found["unseen_sites"]["tunis"]["day_curve/readings"]["mean"] == 5.0
    assert set(found["by_seed"]) == {"1", "2", "3"}


def test_nitrogen_closes_a_share_of_the_gap():
    found = nitrogen(made_up().filter(pl.col("scene") == "wheat"))
    assert found["gap_closed_frac"] == 0.45
    assert found["gap_closed_frac_se"] == 0.0
    assert found["gain_over_soil_test_usd_ha"] == 6.0
    assert "hindsight" not in found["nitrogen_kg_ha"]


def test_the_section_of_the_report_tells_all_of_it():
    found = summary(made_up(), Path(), Plan())
    shown = section(found)
    text = " ".join([*shown.paragraphs, *shown.points])
    assert "+19" in text
    assert "45 %" in text
    assert "by “python -m tasks.study.run --folds 4 --seeds 3” at commit" in text
    # The bundle's own rule earns most of the rules, but is no rival of the device.
    assert "(day curve, the net's estimate) would have had +17.0 USD" in text
    assert "over the bundle's own rule: +16.0 ± " in text
    assert [figure.name for group in shown.figures for figure in group]
    assert all(figure.tags for group in shown.figures for figure in group)
    assert shown.tables
