from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tasks.features.labels import without_trend
from tasks.features.trend import Trend, theil_sen, trend_of


def seasons(growth: float, noise: float = 0.0, crop: str = "maize") -> pl.DataFrame:
    rng = np.random.default_rng(0)
    years = np.arange(1980, 2009)
    level = 10.0 * (1 + growth * (years - 1994)) + rng.normal(0, noise, years.size)
    return pl.DataFrame({"crop": crop, "site": "champion", "season": years, "year": years, "target": level})


def test_a_known_growth_is_found():
    trend = trend_of(seasons(0.004))
    assert trend.reference_season == 1994
    assert trend.per_year_frac == pytest.approx(0.004, rel=1e-6)


def test_one_ruined_season_does_not_tilt_it():
    rows = seasons(0.004)
    ruined = rows.with_columns(target=pl.when(pl.col("season") == 2008).then(1.0).otherwise(pl.col("target")))
    assert trend_of(ruined).per_year_frac == pytest.approx(0.004, rel=0.05)


def test_taking_the_trend_out_and_putting_it_back_is_nothing():
    rows = seasons(0.004, noise=0.3)
    flat, trends = without_trend(rows)
    back = [t * trends["maize"].factor(s) for t, s in flat.select("target", "season").iter_rows()]
    np.testing.assert_allclose(back, rows["target"].to_numpy())
    assert abs(theil_sen(flat["season"].to_numpy().astype(float), flat["target"].to_numpy())) < 0.005


def test_each_crop_has_a_trend_of_its_own():
    both = pl.concat([seasons(0.004), seasons(-0.002, crop="wheat")])
    _, trends = without_trend(both)
    assert trends["maize"].per_year_frac > 0 > trends["wheat"].per_year_frac


def test_field_data_take_part_in_the_trend_without_making_it():
    own = seasons(0.004)
    returned = own.tail(3).with_columns(site=pl.lit("field"), target=pl.lit(2.0), season=pl.col("season") + 19)
    flat, trends = without_trend(pl.concat([own, returned]))
    assert trends["maize"] == trend_of(own)
    last = flat.tail(1).row(0, named=True)
    assert last["target"] == pytest.approx(2.0 / trends["maize"].factor(2008))  # by the year of its weather


def test_a_single_season_has_no_trend():
    assert trend_of(pl.DataFrame({"season": [2001], "target": [8.0]})) == Trend(2001, 0.0)
