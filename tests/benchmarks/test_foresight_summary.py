"""Gains are paired by season, over all folds."""

from __future__ import annotations

import pytest

from benchmarks.foresight import summary


def test_gains_are_paired_by_season_over_all_folds():
    folds = [
        {"day_curve": {1990: 400.0, 2010: 500.0}, "planner": {1990: 410.0, 2010: 480.0}},
        {"day_curve": {2011: 300.0}, "planner": {2011: 340.0}},
    ]
    found = summary(folds)
    assert found["seasons"] == [1990, 2010, 2011]
    assert found["by_season_usd_ha"]["planner"] == [410.0, 480.0, 340.0]
    told = found["by_who"]["planner"]
    assert (told["mean_usd_ha"], told["mean_2009_2018_usd_ha"]) == (410.0, 410.0)
    assert told["over_planner"]["gain_usd_ha"] == found["by_who"]["day_curve"]["over_day_curve"]["gain_usd_ha"] == 0.0
    gain = told["over_day_curve"]
    assert (gain["gain_usd_ha"], gain["worst_season"], gain["worst_usd_ha"]) == (10.0, 2010, -20.0)
    assert gain["gain_se_usd_ha"] == pytest.approx(17.3)
