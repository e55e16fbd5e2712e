from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge.advisor import Advisor
from headland_edge.bundle import Bundle
from headland_edge.field_watch import FieldWatch, parse_harvest
from headland_edge.home import Home
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.records import COLUMNS, RecordError, Records
from headland_edge.release import Loaded
from headland_edge.sketch import Drift
from headland_edge.slots import Booted
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.small_bundle import make_home, season

SOWN = date(2009, 4, 20)


@pytest.fixture
def loaded(known_bundle: Bundle) -> Loaded:
    booted = Booted("a", known_bundle.path, known_bundle.sha256, 7, False)
    return Loaded(booted, known_bundle, Advisor(known_bundle))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "device")


def varied(mornings: int, seed: int = 0, year: int = 2009) -> Records:
    values = season("maize", mornings).values + np.random.default_rng(seed).uniform(0, 0.1, (mornings, len(COLUMNS)))
    return Records("maize", date(year, 4, 20), values)


def pending(outbox: Outbox, kind: str) -> list[Message]:
    outbox.delivered([]).result(10)
    return [each for each in outbox.pending() if each.kind == kind]


def test_records_are_chosen_once_when_every_field_was_weighed(home: Home, loaded: Loaded) -> None:
    settings = home.settings()
    settings = replace(settings, uplink=replace(settings.uplink, record_share=0.5))
    with Outbox(home.outbox) as outbox:
        watch = FieldWatch(home, settings, outbox)
        fields = {f"field-{n}": varied(100, n) for n in range(4)}
        for name, records in fields.items():
            watch.see(name, records, loaded)
            watch.end_seasons(loaded)
        for name in fields:
            assert not pending(outbox, "record")
            watch.weigh(name, "maize", SOWN, 5.0)
            watch.end_seasons(loaded)
        chosen = pending(outbox, "record")
        assert chosen
        assert {each.body["harvest_t_ha"] for each in chosen} == {5.0}
        outbox.delivered(each.id for each in chosen).result(10)
        again = FieldWatch(home, settings, outbox)
        for name, records in fields.items():
            again.see(name, records, loaded)
            again.weigh(name, "maize", SOWN, 5.0)
        again.end_seasons(loaded)
        assert not pending(outbox, "record")


def test_a_season_ends_when_the_next_one_takes_its_place(home: Home, loaded: Loaded) -> None:
    settings = home.settings()
    settings = replace(settings, uplink=replace(settings.uplink, record_share=0.5))
    with Outbox(home.outbox) as outbox:
        watch = FieldWatch(home, settings, outbox)
        watch.see("north", varied(100), loaded)
        watch.see("south", varied(100, 1), loaded)
        watch.weigh("north", "maize", SOWN, 5.0)
        watch.end_seasons(loaded)
        assert not pending(outbox, "record")
        watch.see("north", varied(1, year=2010), loaded)
        watch.end_seasons(loaded)
        assert {each.body["sowing_date"] for each in pending(outbox, "record")} == {"2009-04-20"}


def test_nothing_is_chosen_where_policy_keeps_records_here(home: Home, loaded: Loaded) -> None:
    settings = home.settings()
    settings = replace(settings, uplink=replace(settings.uplink, record_share=0.5, keep_raw=False))
    with Outbox(home.outbox) as outbox:
        watch = FieldWatch(home, settings, outbox)
        watch.see("north", varied(100), loaded)
        watch.weigh("north", "maize", SOWN, 5.0)
        watch.end_seasons(loaded)
        assert not pending(outbox, "record")


class Foreign:
    """A sketch that finds mornings 10 to 19 foreign."""

    def drifts(self, features: np.ndarray[Any, Any]) -> list[Drift]:
        return [Drift(0.9, True) if 10 <= morning < 20 else Drift() for morning in range(len(features))]


def test_drift_is_told_on_the_morning_it_begins_and_ends_whenever_it_is_looked_at(home: Home, loaded: Loaded) -> None:
    loaded.bundle.__dict__["sketch"] = {"maize": Foreign()}
    try:
        with Outbox(home.outbox) as outbox:
            for _ in range(2):  # again after a restart
                watch = FieldWatch(home, home.settings(), outbox)
                for mornings in (5, 11, 12, 25):
                    watch.see("north", varied(mornings), loaded)
            told = pending(outbox, "event")
    finally:
        del loaded.bundle.__dict__["sketch"]
    assert [(each.body["event"], each.body["date"]) for each in told] == [
        ("drift", "2009-04-30"),
        ("drift_over", "2009-05-10"),
    ]


def test_a_harvest_file_says_what_was_weighed_and_must_be_of_what_was_sown(home: Home, loaded: Loaded) -> None:
    told = {"crop": "wheat", "sowing_date": "2009-04-20", "yield_t_ha": 6}
    assert parse_harvest(json.dumps(told).encode(), "x") == ("wheat", SOWN, 6.0)
    with Outbox(home.outbox) as outbox:
        watch = FieldWatch(home, home.settings(), outbox)
        watch.see("north", varied(3), loaded)
        with pytest.raises(RecordError, match="maize was sown"):
            watch.weigh("north", "wheat", SOWN, 6.0)


@given(
    st.one_of(
        st.binary(max_size=80),
        st.fixed_dictionaries(
            {
                "crop": st.sampled_from(["maize", "rice", 3]),
                "sowing_date": st.sampled_from(["2009-04-20", "20", 7, None]),
                "yield_t_ha": st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=3)),
            }
        ).map(lambda plain: json.dumps(plain).encode()),
    )
)
def test_whatever_a_harvest_file_holds_it_is_a_harvest_or_refused(data: bytes) -> None:
    try:
        crop, _, weighed = parse_harvest(data, "north.harvest.json")
    except RecordError:
        return
    assert crop in ("maize", "wheat")
    assert 0 <= weighed <= 100
