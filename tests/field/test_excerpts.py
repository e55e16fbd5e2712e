from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pytest
from headland_edge.messages import Message
from headland_edge.records import COLUMN_INFO, COLUMNS
from headland_edge.selection import FieldSeason, Judged, Terms, messages
from hypothesis import given
from hypothesis import strategies as st

from tasks.field.excerpts import ExcerptError, parse
from tasks.field.schema import SCHEMA
from tests.edge.small_bundle import season
from tests.field.excerpts import DEPLETION, NOW_S, body, record


def refused(**changes: Any) -> str:
    with pytest.raises(ExcerptError) as caught:
        parse(record(**changes), NOW_S)
    return caught.value.code


def test_an_excerpt_becomes_rows_of_the_table() -> None:
    excerpt = parse(record(first_day=3, release_counter=2009000, why=["random", "novel", "novel"]), NOW_S)
    assert (excerpt.crop, excerpt.season, len(excerpt.rows)) == ("maize", 2009, 5)
    row = excerpt.rows[1]
    assert list(row) == list(SCHEMA)
    assert (row["field_id"], row["days_after_sowing"], row["date"]) == ("field-1/north", 4, date(2009, 5, 4))
    assert (row["why"], row["harvest_t_ha"], row["release_counter"]) == ("novel,random", 9.5, 2009000)


def test_columns_that_may_not_leave_the_device_and_mornings_without_a_reading_are_null() -> None:
    excerpt = parse(record(columns={"rain_mm": [None, 3]}, why=[], harvest_t_ha=None), NOW_S)
    assert [row["rain_mm"] for row in excerpt.rows] == [None, 3.0]
    assert excerpt.rows[1]["lai"] is None
    assert excerpt.rows[1]["why"] == "typical"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"field": "../../etc/passwd"}, "field"),
        ({"field": "north/south"}, "field"),
        ({"field": "north\n"}, "field"),
        ({"field": ""}, "field"),
        ({"field": "n" * 64}, "field"),
        ({"field": 7}, "field"),
        ({"field": None}, "field"),
        ({"crop": "rye"}, "crop"),
        ({"crop": ["maize"]}, "crop"),
        ({"sowing_date": "2009-4-30"}, "sowing-date"),
        ({"sowing_date": "20090430"}, "sowing-date"),
        ({"sowing_date": "2009-02-30"}, "sowing-date"),
        ({"sowing_date": "1900-01-01"}, "sowing-date"),
        ({"sowing_date": "../../../x"}, "sowing-date"),
        ({"sowing_date": 20090430}, "sowing-date"),
        ({"sowing_date": "2030-04-30"}, "future"),
        ({"sowing_date": "2009-12-30"}, "future"),
        ({"first_day": -1}, "type"),
        ({"first_day": True}, "type"),
        ({"first_day": 1.5}, "type"),
        ({"first_day": "0"}, "type"),
        ({"first_day": 10**30}, "type"),
        ({"first_day": 398}, "length"),
        ({"columns": {}}, "column"),
        ({"columns": []}, "column"),
        ({"columns": {"../../x": [1.0]}}, "column"),
        ({"columns": {"truth_yield_t_ha": [1.0]}}, "column"),
        ({"columns": {"rain_mm": 1.0}}, "length"),
        ({"columns": {"rain_mm": []}}, "length"),
        ({"columns": {"rain_mm": [1.0], "lai": [1.0, 2.0]}}, "length"),
        ({"columns": {"rain_mm": [1.0] * 36}}, "length"),
        ({"columns": {"rain_mm": [1.0] * 1_000_000}}, "length"),
        ({"columns": {"rain_mm": ["1.0"]}}, "type"),
        ({"columns": {"rain_mm": [True]}}, "type"),
        ({"columns": {"rain_mm": [[1.0]]}}, "type"),
        ({"columns": {"rain_mm": [10**400, 1e300, -5]}}, "out-of-range"),
        ({"columns": {DEPLETION: [55.0, 60.0, 65.0, 0.5]}}, "out-of-range"),
        ({"why": "random"}, "why"),
        ({"why": ["because"]}, "why"),
        ({"why": [["random"]]}, "why"),
        ({"harvest_t_ha": -1}, "harvest"),
        ({"harvest_t_ha": 31.0}, "harvest"),
        ({"harvest_t_ha": "9.5"}, "type"),
        ({"harvest_t_ha": False}, "type"),
        ({"release_counter": -1}, "type"),
        ({"release_counter": "1"}, "type"),
    ],
)
def test_what_cannot_be_true_is_refused_with_a_word_for_it(changes: dict[str, Any], code: str) -> None:
    assert refused(**changes) == code


def test_mornings_without_a_reading_are_mornings() -> None:
    for nothing in (None, float("nan")):
        rows = parse(record(columns={"rain_mm": [nothing] * 35}), NOW_S).rows
        assert [row["rain_mm"] for row in rows] == [None] * 35


def test_what_a_device_sends_is_taken_as_it_is() -> None:
    known = season("wheat", 80)
    known.values[20:60, 0] = np.nan
    known.values[:, 3] = np.nan
    over = FieldSeason("north", known, 7.5, np.full((80, 3), np.nan))
    for why in (["random"], Judged(over, 0.99, 0.99, 9.0).why, Judged(over, 0.1, math.nan, 0.0).why):
        sent = messages(Judged(over, 0.5, 0.5, 0.5), 80, why, Terms(), "field-1")
        rows = [row for message in sent for row in parse(message, NOW_S).rows]
        assert [row["days_after_sowing"] for row in rows] == list(range(80))
        assert rows[0]["why"] == ",".join(sorted(why))
        told = np.array([[np.nan if row[name] is None else row[name] for name in COLUMNS] for row in rows])
        np.testing.assert_allclose(told, known.values, atol=0.06)


def test_a_missing_key_is_refused() -> None:
    for key in ("field", "crop", "sowing_date", "first_day", "columns", "why"):
        plain = {name: value for name, value in body().items() if name != key}
        with pytest.raises(ExcerptError):
            parse(Message("field-1", "record", 1.0, plain), NOW_S)


def test_single_faults_are_left_out_and_counted_and_a_stuck_sensor_does_not_cost_the_rest() -> None:
    columns = {DEPLETION: [0.1, 9.9, 0.3], "lai": [99.0, 99.0, 99.0], "tmin_c": [1, -0.0, 3]}
    excerpt = parse(record(columns=columns), NOW_S)
    assert [row[DEPLETION] for row in excerpt.rows] == [0.1, None, 0.3]
    assert excerpt.dropped == {DEPLETION: 1, "lai": 3}
    assert str(excerpt.rows[1]["tmin_c"]) == "0.0"


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
columns = st.dictionaries(
    st.sampled_from([*COLUMNS, "x", "../x"]), st.lists(numbers, max_size=40) | numbers, max_size=5
)
anything = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "field": anything,
            "crop": anything,
            "sowing_date": st.dates().map(str) | st.text(max_size=12) | anything,
            "first_day": anything,
            "columns": columns | anything,
            "why": anything,
            "harvest_t_ha": anything,
            "release_counter": anything,
        },
    )
)
def test_any_body_gives_rows_within_the_limits_or_is_refused(changes: dict[str, Any]) -> None:
    try:
        excerpt = parse(record(**changes), NOW_S)
    except ExcerptError:
        return
    assert 1 <= len(excerpt.rows) <= 35
    for row in excerpt.rows:
        assert row["date"] <= date(2010, 1, 2)
        for name in COLUMNS:
            assert row[name] is None or COLUMN_INFO[name].low <= row[name] <= COLUMN_INFO[name].high
