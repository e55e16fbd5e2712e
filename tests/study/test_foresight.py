"""The planner: better than its rule where the future is known, within the limit; a forecast is what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from headland_edge.rules import DayCurveRule

from tasks.crops.interface import Field
from tasks.policies.money import profit_usd_ha
from tasks.study.foresight import Forecast, Foreseen, by_truth, planned
from tests.conftest import made_up_weather

YEARS = {f"x/{year}": replace(made_up_weather("x", year), site=f"x/{year}") for year in range(2001, 2006)}
FIRST, OTHERS = {"x/2001": YEARS["x/2001"]}, {key: YEARS[key] for key in list(YEARS)[1:]}
RULE = DayCurveRule((1, 60, 125), (0.3, 0.4, 0.5), 1.0, 30.0, 5.0)


def fields(params, count=1):
    sown, ranges = date(2001, 4, 30), params.fields.maize
    assert ranges.sowing_day[0] <= sown.timetuple().tm_yday <= ranges.sowing_day[1]
    return tuple(
        Field(f"f-{i}", "maize", "x/2001", 2001, "SiltClayLoam", sown, ranges.season_days, 0.5 + 0.1 * i)
        for i in range(count)
    )


def earned(harvest, params):
    return float(profit_usd_ha("maize", harvest, params.prices)[0])


def test_who_knows_the_season_earns_more_than_the_rule(params):
    """The only year that may come is the one that comes: each departure from the rule pays, so their sum does."""
    depths, ruled = by_truth(fields(params), FIRST, RULE)
    known = planned(fields(params), FIRST, FIRST, RULE, params)
    assert earned(known, params) > earned(ruled, params) + 10
    assert depths.sum() == pytest.approx(ruled.irrigation_mm[0])


def test_a_season_limit_holds_for_the_planner(params):
    limited = replace(RULE, season_limit_mm=40.0)
    harvest = planned(fields(params, 2), FIRST, OTHERS, limited, params)
    assert (harvest.irrigation_mm <= 40.0 + 1e-9).all()
    assert harvest.irrigation_mm.max() > 0


def test_a_forecast_of_the_whole_season_is_the_season(params):
    """All members are the season itself: the planner does as it does when that year is all it knows."""
    known = planned(fields(params), FIRST, FIRST, RULE, params)
    told = planned(fields(params), FIRST, OTHERS, RULE, params, Forecast(params.fields.maize.season_days, 1.0))
    assert earned(told, params) == pytest.approx(earned(known, params))


def members(params, day, forecast):
    """Rain of each member on each day from sowing, and that of the season and of the known years."""
    made = Foreseen(fields(params), FIRST, OTHERS, day, forecast, np.random.default_rng(1))
    rows = made.rows(fields(params), 99, np.random.default_rng(2))
    assert sorted(rows[0].tolist()) == list(range(len(OTHERS)))
    return made.batch._weather[:, :, 2], *(
        np.stack([each.rain_mm[119 : 119 + params.fields.maize.season_days] for each in years.values()])
        for years in (FIRST, OTHERS)
    )


def test_days_of_a_right_forecast_lie_in_every_member_and_nothing_else_changes(params):
    rain, season, others = members(params, 30, Forecast(5, 1.0))
    assert (rain[:, 30:35] == season[:, 30:35]).all()
    assert (rain[:, :30] == others[:, :30]).all()
    assert (rain[:, 35:] == others[:, 35:]).all()


def test_a_forecast_that_is_always_wrong_tells_nothing(params):
    rain, _, others = members(params, 30, Forecast(5, 0.0))
    assert (rain == others).all()


def test_as_many_days_come_true_as_the_chance_says(params):
    """Of many forecasts, the share of members that have the season's own weather on a day, by how far it lies ahead."""
    hits = np.zeros(4)
    for seed in range(400):
        made = Foreseen(fields(params), FIRST, OTHERS, 30, Forecast(4, 0.8), np.random.default_rng(seed))
        told = made.batch._weather[:, 30:34, 1]
        hits += (told == FIRST["x/2001"].tmax_c[149:153]).mean(axis=0) / 400
    # A member follows what is issued, and what is issued is right, each with that chance a day.
    assert hits == pytest.approx([0.64**k for k in range(1, 5)], abs=0.04)
