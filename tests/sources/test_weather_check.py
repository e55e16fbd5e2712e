"""Rows that cannot be true are set aside with their reason; nothing else is."""

from __future__ import annotations

import math
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weather_rows import GOOD, raw

from tasks.sources.schema import LIMITS, REQUIRED, VALUES, WeatherError, check, gaps


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"tmin_c": 21.0}, "tmin_c above tmax_c"),
        ({"rain_mm": -0.1}, "rain_mm below 0"),
        ({"rain_mm": None}, "rain_mm missing"),
        ({"tmax_c": math.nan}, "tmax_c not finite"),
        ({"radiation_mj_m2": math.inf}, "radiation_mj_m2 not finite"),
        ({"et0_mm": 300.0}, "et0_mm above 25"),
        ({"vapour_pressure_kpa": 12.0}, "vapour_pressure_kpa above 6"),
        ({"date": None}, "no date"),
        ({"date": date(1, 1, 1)}, "date outside 1850-01-01 to 2150-12-31"),
        ({"fault": "wrong number of cells", "tmin_c": None}, "wrong number of cells"),
        ({"date": date(2001, 5, 1)}, "duplicate day"),
    ],
)
def test_a_bad_row_is_set_aside_with_row_and_reason(fault: dict[str, object], reason: str) -> None:
    good, rejected = check(raw({}, {}, fault, {}), "here")
    assert good["row"].to_list() == [2, 3, 5]
    assert rejected.select("file", "row", "reason").rows() == [("f", 4, reason)]


def test_days_that_disagree_are_all_set_aside() -> None:
    good, rejected = check(raw({}, {"date": date(2001, 5, 1), "rain_mm": 9.0}, {}), "here")
    assert good["row"].to_list() == [4]
    assert rejected["reason"].to_list() == ["duplicate day, values differ"] * 2


def test_a_repeat_of_a_row_that_cannot_be_true_stays() -> None:
    good, rejected = check(raw({"tmin_c": 99.0}, {"date": date(2001, 5, 1)}), "here")
    assert good["row"].to_list() == [3]
    assert rejected["row"].to_list() == [2]


def test_what_a_source_need_not_observe_may_be_missing() -> None:
    optional = {name: None for name in VALUES if name not in REQUIRED}
    assert check(raw(optional), "here").rejected.is_empty()


def test_a_source_without_any_good_row_is_refused_by_name_and_row() -> None:
    with pytest.raises(WeatherError, match=r"f:2: rain_mm below 0; none of the 2 rows of here"):
        check(raw({"rain_mm": -1.0}, {"rain_mm": -2.0}), "here")
    with pytest.raises(WeatherError, match="here: holds no rows"):
        check(raw(), "here")


numbers = st.one_of(st.none(), st.floats(), st.sampled_from([-99.0, -999.0, 0.0, 5.0, 1e9]))
days = st.one_of(st.none(), st.dates(date(2001, 5, 1), date(2001, 5, 6)), st.dates())


@given(st.lists(st.fixed_dictionaries({}, optional={**dict.fromkeys(VALUES, numbers), "date": days}), max_size=12))
def test_no_impossible_row_gets_through_and_no_row_is_lost(rows: list[dict[str, object]]) -> None:
    frame = raw({}, *rows)
    try:
        good, rejected = check(frame, "here")
    except WeatherError:
        return
    assert good.height + rejected.height == frame.height
    assert sorted([*good["row"], *rejected["row"]]) == frame["row"].to_list()
    assert rejected["reason"].null_count() == 0
    assert good["date"].is_sorted()
    assert good["date"].n_unique() == good.height
    for row in good.iter_rows(named=True):
        assert row["tmin_c"] <= row["tmax_c"]
        for name, (low, high) in LIMITS.items():
            assert (row[name] is None and name not in REQUIRED) or low <= row[name] <= high


@given(st.sets(st.dates(date(2000, 1, 1), date(2000, 3, 1)), min_size=1))
def test_gaps_are_exactly_the_days_without_a_row(known: set[date]) -> None:
    found = {first + timedelta(days=i) for first, last in gaps(sorted(known)) for i in range((last - first).days + 1)}
    span = {min(known) + timedelta(days=i) for i in range((max(known) - min(known)).days + 1)}
    assert found == span - known


def test_the_example_row_is_within_every_limit() -> None:
    assert pl.Series(list(GOOD)).to_list() == list(LIMITS)
    assert all(low <= GOOD[name] <= high for name, (low, high) in LIMITS.items())
