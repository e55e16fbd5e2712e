from __future__ import annotations

import numpy as np
import pytest
from headland_edge.readings import Reading, carry_depletion, last_seen
from headland_edge.records import Records
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.small_bundle import histories, lost, season


def test_last_seen_needs_all_columns_of_one_morning() -> None:
    records = lost(season("maize", 5, rain_mm=np.arange(5.0)), "et0_mm", 2)
    assert last_seen(records, "rain_mm") == Reading(4.0, 0)
    assert last_seen(records, "rain_mm", "et0_mm") == Reading(2.0, 2)
    assert last_seen(lost(records, "rain_mm", 5), "rain_mm") is None


def test_water_balance_by_hand() -> None:
    rain = np.array([99.0, 99.0, 3.0, np.nan, 0.0])
    irrigation = np.array([0.0, 0.0, 0.0, 10.0, 0.0])
    et0 = np.array([9.0, 9.0, 5.0, np.nan, 4.0])
    records = season("maize", 5, rain_mm=rain, irrigation_mm=irrigation, et0_mm=et0)
    reckoned = carry_depletion(records, Reading(0.4, 3), 100.0, 14)
    assert reckoned is not None
    assert reckoned.depletion_frac == pytest.approx((40 + (5 - 3) + (5 - 10) + 4) / 100)
    assert (reckoned.missing_et0, reckoned.missing_rain) == (1, 1)


def test_the_balance_is_clipped_every_day() -> None:
    wet = season("maize", 4, rain_mm=np.array([0.0, 0.0, 200.0, 0.0]), et0_mm=5.0)
    reckoned = carry_depletion(wet, Reading(0.9, 2), 100.0, 14)
    assert reckoned is not None
    assert reckoned.depletion_frac == pytest.approx(0.05)
    dry = carry_depletion(season("maize", 12, et0_mm=20.0), Reading(0.9, 10), 100.0, 14)
    assert dry is not None
    assert dry.depletion_frac == 1.0


def test_without_recent_et0_there_is_no_balance_but_a_fresh_reading_needs_none() -> None:
    records = lost(season("maize", 30), "et0_mm", 14)
    assert carry_depletion(records, Reading(0.4, 8), 100.0, 14) is None
    assert carry_depletion(records, Reading(0.4, 8), 100.0, 15) is not None
    fresh = carry_depletion(records, Reading(0.4, 0), 100.0, 14)
    assert fresh is not None
    assert fresh.depletion_frac == 0.4


@given(histories(), st.integers(1, 13), st.floats(-1, 1.5), st.floats(1, 800))
def test_the_balance_stays_between_field_capacity_and_wilting_point(
    records: Records, age: int, depletion: float, taw_mm: float
) -> None:
    reckoned = carry_depletion(records, Reading(depletion, min(age, records.n_mornings - 1)), taw_mm, 14)
    if reckoned is not None and records.n_mornings > 1:
        assert 0.0 <= reckoned.depletion_frac <= 1.0
