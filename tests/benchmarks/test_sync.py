"""Peers that draw records anywhere stay within the same bytes and say what they hold."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from headland_edge.messages import encode
from headland_edge.records import COLUMNS, Records
from headland_edge.selection import FieldSeason, Judged, Terms, cost

from benchmarks.sync import drawn, excerpt, number_of, summary

DAYS = 120


def judged(number: int) -> Judged:
    rng = np.random.default_rng(number)
    records = Records("maize", date(2009, 5, 1), rng.uniform(0.1, 0.9, (DAYS, len(COLUMNS))))
    return Judged(FieldSeason(f"field-{number:03d}", records, 11.5, np.empty((0, 3))), 0.5, 0.5, 0.1)


@pytest.mark.parametrize("mornings", [1, 35])
def test_draws_stay_within_the_bytes_of_the_selection_and_repeat_nothing(mornings: int):
    farm = [judged(number) for number in range(12)]
    sent = drawn(mornings)(farm, "fleet-1-0")
    whole = cost([each.over for each in farm], Terms(), "fleet-1-0")
    used = sum(len(encode(message)) for message in sent)
    assert 0.07 * whole < used <= 0.1 * whole
    places = [(number_of(message), message.body["first_day"]) for message in sent]
    assert len(set(places)) == len(places)
    assert len({number for number, _ in places}) > 1
    assert sent == drawn(mornings)(farm, "fleet-1-0") != drawn(mornings)(farm, "fleet-1-1")


def test_an_excerpt_holds_the_mornings_it_names():
    one = judged(3)
    message = excerpt(one, 35, 35, "fleet-1-0")
    rain = COLUMNS.index("rain_mm")
    assert message.body["first_day"] == 35
    assert message.body["harvest_t_ha"] == 11.5
    expected = one.over.records.values[35:70, rain]
    assert message.body["columns"]["rain_mm"] == pytest.approx(expected, abs=0.051)
    last = excerpt(one, 105, 35, "fleet-1-0")
    assert len(last.body["columns"]["rain_mm"]) == DAYS - 105


def test_what_is_selected_is_held_against_each_draw():
    losses = {"everything": 1.0, "selected": 1.01, "random": 1.0, "random_records": 1.05}
    rows = [
        {"arm": name, "season": season, "seed": seed, "metric": value + 0.001 * seed, "bytes_share": 0.1}
        for name, value in losses.items()
        for season in (2009, 2010)
        for seed in (0, 1)
    ]
    found = summary(rows)
    assert found["better_than_random_frac"] == pytest.approx(-0.01, abs=1e-4)
    assert found["better_than_random_records_frac"] == pytest.approx(0.04, abs=1e-4)
    assert found["better_than_random_records_frac_se"] == pytest.approx(0.0, abs=1e-9)
