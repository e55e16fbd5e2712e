"""Peers that draw records anywhere stay within the same bytes and say what they hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pytest
from headland_edge.messages import Message, encode
from headland_edge.records import COLUMNS, Records
from headland_edge.selection import FieldSeason, Judged, Terms, cost

from benchmarks.sync import excerpts_drawn, number_of, of_days, records_drawn, summary, years_from
from tasks.params import Params
from tasks.sources.daily import SiteWeather

DAYS = 120
Draw = Callable[[list[Judged], str], list[Message]]


def judged(number: int) -> Judged:
    rng = np.random.default_rng(number)
    records = Records("maize", date(2009, 5, 1), rng.uniform(0.1, 0.9, (DAYS, len(COLUMNS))))
    return Judged(FieldSeason(f"field-{number:03d}", records, 11.5, np.empty((0, 3))), 0.5, 0.5, 0.1)


@pytest.mark.parametrize("draw", [records_drawn, excerpts_drawn])
def test_draws_fill_the_bytes_of_the_selection_and_repeat_nothing(draw: Draw):
    farm = [judged(number) for number in range(12)]
    sent = draw(farm, "fleet-1-0")
    whole = cost([each.over for each in farm], Terms(), "fleet-1-0")
    assert 0.08 * whole < sum(len(encode(message)) for message in sent) <= 0.1 * whole
    places = [(number_of(message), day) for message in sent for day in message.body["days"]]
    assert len(set(places)) == len(places)
    # A message a field is the dearest part of single records; excerpts cost what a whole season costs.
    assert len(places) > 0.04 * 12 * DAYS
    assert sent == draw(farm, "fleet-1-0") != draw(farm, "fleet-1-1")


def test_records_are_drawn_from_anywhere():
    sent = records_drawn([judged(number) for number in range(12)], "fleet-1-0")
    assert len({number_of(message) for message in sent}) == 12
    assert any(np.diff(message.body["days"]).max() > 1 for message in sent)


def test_records_are_those_of_the_days_they_name():
    days = [*range(3, 40), 77]
    first, second = of_days(judged(3), days, "fleet-1-0")
    assert (first.body["days"], second.body["days"]) == (days[:35], days[35:])
    rain = COLUMNS.index("rain_mm")
    expected = judged(3).over.records.values[days[35:], rain]
    assert second.body["columns"]["rain_mm"] == pytest.approx(expected, abs=0.051)
    assert second.body["harvest_t_ha"] == 11.5


def test_what_is_selected_is_held_against_each_draw():
    losses = {"everything": (1.0, 1.0), "selected": (1.01, 1.01), "random": (1.0, 1.04), "random_records": (1.05, 1.05)}
    rows = [
        {"arm": name, "season": season, "seed": seed, "metric": value + 0.001 * seed, "bytes_share": 0.1}
        for name, values in losses.items()
        for season, value in zip((2009, 2010), values, strict=True)
        for seed in (0, 1)
    ]
    found = summary(rows)
    assert found["better_than_random_frac"] == pytest.approx(0.01, abs=1e-4)
    assert found["better_than_random_frac_se"] == pytest.approx(0.0, abs=1e-9)
    assert found["better_than_random_frac_season_se"] == pytest.approx(0.02, abs=1e-4)
    assert found["better_than_random_records_frac"] == pytest.approx(0.04, abs=1e-4)
    assert found["better_than_random_records_frac_se"] == pytest.approx(0.0, abs=1e-9)


def test_seasons_are_those_that_are_known(params: Params, sites: dict[str, SiteWeather]):
    assert years_from(params, sites["champion"]) == list(range(2009, 2019))
    later = params.model_copy(update={"as_of": 2015})
    assert years_from(later, sites["champion"]) == [2015, 2016, 2017, 2018]
    with pytest.raises(ValueError, match="2017: champion has 2 seasons"):
        years_from(params.model_copy(update={"as_of": 2017}), sites["champion"])
