"""Synthetic years and the futures that branches live on in."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np

from tasks.advantage.worlds import Futures, seasons_of, spliced, synthetic_years, world_of
from tasks.params import Fold
from tasks.policies.tune import training_fields
from tests.conftest import made_up_weather

YEARS = {f"x/{year}": replace(made_up_weather("x", year), site=f"x/{year}") for year in range(2001, 2006)}


def test_a_spliced_year_holds_only_days_that_were_observed_on_that_day_of_the_year():
    years = list(YEARS.values())
    made = spliced(years, "x/spliced-0", 20, np.random.default_rng(1))
    stacked = np.stack([each.rain_mm for each in years]) + 1j * np.stack([each.tmax_c for each in years])
    found = made.rain_mm + 1j * made.tmax_c
    source = np.array([np.flatnonzero(stacked[:, day] == found[day])[0] for day in range(365)])
    assert (stacked[source, np.arange(365)] == found).all()
    changes = np.flatnonzero(np.diff(source))
    assert 8 <= changes.size <= 19  # a year may follow itself
    assert len({int(day) % 20 for day in changes}) == 1


def test_synthetic_years_are_the_same_whatever_their_number():
    few, many = synthetic_years(YEARS, 2, 15, 7), synthetic_years(YEARS, 5, 15, 7)
    for name, each in few.items():
        np.testing.assert_array_equal(each.tmin_c, many[name].tmin_c)


def test_fields_of_a_world_lie_in_the_years_asked_for(params):
    world = world_of("maize", YEARS, 3, params, "a")
    assert len(world) == 15
    assert {field.site for field in world.fields} == set(YEARS)
    assert len({field.field_id for field in world.fields}) == 15
    other = world_of("maize", YEARS, 3, params, "b")
    assert {field.field_id for field in other.fields}.isdisjoint(field.field_id for field in world.fields)


def test_futures_are_sown_on_the_fields_own_day_and_differ(params):
    futures = Futures("maize", YEARS, params)
    fields = world_of("maize", YEARS, 2, params, "a").fields
    rows = futures.rows(fields, 3, np.random.default_rng(0))
    assert rows.shape == (10, 3)
    for field, own in zip(fields, rows, strict=True):
        chosen = [futures.batch.fields[row] for row in own]
        assert len({each.site for each in chosen}) == 3
        for each in chosen:
            same = date(each.season, 1, 1) - each.sowing_date == date(field.season, 1, 1) - field.sowing_date
            assert same


def test_more_futures_than_years_are_all_years(params):
    futures = Futures("maize", YEARS, params)
    fields = world_of("maize", YEARS, 1, params, "a").fields[:1]
    assert futures.rows(fields, 99, np.random.default_rng(0)).shape == (1, 5)


def test_seasons_that_are_tested_teach_nothing(params, sites):
    for plain in (params, params.model_copy(update={"as_of": 2019, "fold": Fold(number=1, count=4)})):
        for crop in ("maize", "wheat"):
            for name, (train, held) in seasons_of(crop, plain, sites).items():
                ranges = plain.fields.of(crop)
                all_of = sites[name].seasons(ranges.sowing_day[1] + ranges.season_days)
                test = set(plain.split(name, all_of).test)
                assert test
                assert test.isdisjoint(train)
                assert test.isdisjoint(held)
                assert set(train).isdisjoint(held)
                assert test.isdisjoint(field.season for field in training_fields(crop, plain, sites, 1))


def test_every_season_is_tested_in_one_fold(params, sites):
    years = sites["champion"].seasons(270)
    tested = [
        year
        for fold in range(4)
        for year in params.model_copy(update={"as_of": 2019, "fold": Fold(number=fold, count=4)})
        .split("champion", years)
        .test
    ]
    assert sorted(tested) == years
