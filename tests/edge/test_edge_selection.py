"""What leaves the device of a season: never more than its share, never a column that may not, a fair control."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from headland_edge.advisor import Advisor
from headland_edge.bundle import Bundle
from headland_edge.messages import encode
from headland_edge.records import COLUMNS, Records
from headland_edge.selection import (
    MAX_MORNINGS,
    FieldSeason,
    Judged,
    Terms,
    choose,
    cost,
    judge,
    messages,
    yield_bands,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge.small_bundle import histories, season
from tests.edge.test_edge_sketch import made_up

DEVICE = "field-7"


def over(records: Records, field: str = "a", harvest_t_ha: float | None = 9.0) -> FieldSeason:
    bands = np.tile([8.0, 10.0, 11.0], (records.n_mornings, 1))
    return FieldSeason(field, records, harvest_t_ha, bands)


shares = st.floats(0.0, 1.0) | st.none()
judgements = st.builds(
    lambda uncertainty, novelty, disagreement: tuple(
        math.nan if each is None else each for each in (uncertainty, novelty, disagreement)
    ),
    shares,
    shares,
    st.floats(-5.0, 5.0) | st.none(),
)


@st.composite
def farms(draw: st.DrawFn) -> list[Judged]:
    """A few fields of one device with random seasons and judgements."""
    records = draw(st.lists(histories(wild=True, max_mornings=150), min_size=0, max_size=6))
    return [Judged(over(each, f"field-{i}"), *draw(judgements)) for i, each in enumerate(records)]


all_terms = st.builds(
    Terms,
    record_share=st.floats(0.0, 1.0),
    random_share=st.floats(0.1, 1.0),
    fields=st.lists(st.sampled_from(COLUMNS), unique=True, max_size=4).map(tuple),
    keep_raw=st.just(True),
)


def size(sent: list[Any]) -> int:
    return sum(len(encode(message)) for message in sent)


@given(farms(), all_terms)
@settings(max_examples=60, deadline=None)
def test_what_is_sent_keeps_to_its_terms(farm: list[Judged], terms: Terms) -> None:
    sent = choose(farm, terms, DEVICE)
    assert size(sent) <= terms.record_share * cost([each.over for each in farm], terms, DEVICE)
    control = [message for message in sent if message.body["why"] == ["random"]]
    assert size(control) >= terms.random_share * size(sent)
    whose: dict[str, set[bool]] = {}
    mornings: list[tuple[str, int]] = []
    by_name = {each.over.field: each.over.records for each in farm}
    for message in sent:
        body = message.body
        assert set(body["columns"]) <= (set(terms.fields) or set(COLUMNS))
        lengths = {len(values) for values in body["columns"].values()}
        assert len(lengths) == 1
        (length,) = lengths
        assert 1 <= length <= MAX_MORNINGS
        days = range(body["first_day"], body["first_day"] + length)
        assert days[-1] < by_name[body["field"]].n_mornings
        mornings += [(body["field"], day) for day in days]
        whose.setdefault(body["field"], set()).add(body["why"] == ["random"])
    assert len(mornings) == len(set(mornings))
    assert all(len(kinds) == 1 for kinds in whose.values())
    for field in whose:  # each field's mornings go back to sowing without a gap
        days_sent = sorted(day for name, day in mornings if name == field)
        assert days_sent == list(range(len(days_sent)))
    assert choose(list(reversed(farm)), terms, DEVICE) == sent


@given(farms(), all_terms)
@settings(max_examples=20, deadline=None)
def test_nothing_leaves_where_nothing_may_stay(farm: list[Judged], terms: Terms) -> None:
    assert choose(farm, replace(terms, keep_raw=False), DEVICE) == []


def twelve(mornings: int = 120) -> list[Judged]:
    rng = np.random.default_rng(3)
    farm = []
    for number in range(12):
        rain = rng.gamma(0.3, 8.0, mornings)
        records = season("maize", mornings, rain_mm=rain, lai=np.linspace(0.1, 5.0, mornings), taw_mm=90.0 + number)
        farm.append(Judged(over(records, f"field-{number:02d}"), 0.5, 0.5, number - 5.5))
    return farm


def test_a_tenth_of_the_bytes_is_used_and_holds_a_control() -> None:
    farm = twelve()
    sent = choose(farm, Terms(), DEVICE)
    whole = cost([each.over for each in farm], Terms(), DEVICE)
    assert 0.08 * whole < size(sent) <= 0.1 * whole
    control = [message for message in sent if message.body["why"] == ["random"]]
    assert 0.1 * size(sent) <= size(control) < 0.2 * size(sent)


def test_everything_is_sent_where_everything_may_be() -> None:
    farm = twelve(40)
    sent = choose(farm, Terms(record_share=1.0), DEVICE)
    assert {message.body["field"] for message in sent} == {each.over.field for each in farm}


def test_the_most_wrong_are_sent_no_more_often_than_others() -> None:
    """Over devices, each position in the order of errors has its turn."""
    farm = twelve(50)
    counts = np.zeros(12)
    for number in range(100):
        for message in choose(farm, Terms(), f"device-{number}"):
            if message.body["first_day"] == 0:
                counts[int(message.body["field"][-2:])] += 1
    assert counts.min() > 0.4 * counts.mean()
    assert counts.max() < 1.8 * counts.mean()


def test_the_draw_hangs_on_device_and_season_alone() -> None:
    farm = twelve(30)
    drawn = {
        device: next(m.body["field"] for m in choose(farm, Terms(), device) if m.body["why"] == ["random"])
        for device in (f"device-{number}" for number in range(30))
    }
    assert len(set(drawn.values())) > 6
    changed = [replace(each, disagreement=-each.disagreement, novelty=0.99) for each in farm]
    for device, field in drawn.items():
        sent = choose(changed, Terms(), device)
        assert next(m.body["field"] for m in sent if m.body["why"] == ["random"]) == field


def test_a_field_that_was_not_weighed_waits_for_those_that_were() -> None:
    farm = [replace(each, disagreement=math.nan) if number > 5 else each for number, each in enumerate(twelve())]
    ranked = {m.body["field"] for m in choose(farm, Terms(), DEVICE) if m.body["why"] != ["random"]}
    assert ranked
    assert ranked <= {f"field-{number:02d}" for number in range(6)}


def test_values_are_rounded_and_silent_columns_left_out() -> None:
    records = season("maize", 40, rain_mm=np.nan, depletion_frac=0.123456, soil_mineral_n_kg_ha=np.nan)
    judged = Judged(over(records), 0.95, math.nan, 2.0)
    first, second = messages(judged, 40, judged.why, Terms(), DEVICE)
    assert (first.body["first_day"], second.body["first_day"]) == (0, MAX_MORNINGS)
    assert first.body["columns"]["rain_mm"] == [None] * MAX_MORNINGS  # the first column tells how many mornings
    assert "soil_mineral_n_kg_ha" not in first.body["columns"]
    assert set(second.body["columns"]["depletion_frac"]) == {0.12}
    assert first.body["why"] == ["uncertain", "disagrees"]
    assert "release_counter" not in first.body
    told = replace(judged, over=replace(judged.over, release_counter=2009000))
    assert messages(told, 5, told.why, Terms(), DEVICE)[0].body["release_counter"] == 2009000


def test_a_season_is_judged_by_what_the_release_says_of_it(known_bundle: Bundle) -> None:
    records = season("maize", 60)
    bands = yield_bands(Advisor(known_bundle), records)
    asked = bands[np.isfinite(bands[:, 0])]
    np.testing.assert_allclose(asked, np.tile([3.0, 5.0, 8.0], (12, 1)), atol=1e-5)
    for harvest, expected in ((2.0, -1.5), (8.0, 1.0), (5.0, 0.0)):
        assert judge(FieldSeason("a", records, harvest, bands), {}).disagreement == pytest.approx(expected, abs=1e-5)
    judged = judge(FieldSeason("a", records, None, bands), {"maize": made_up()})
    assert math.isnan(judged.disagreement)
    assert judged.uncertainty == 1.0
    assert 0.0 <= judged.novelty <= 1.0
    assert judged.why[0] == "uncertain"
