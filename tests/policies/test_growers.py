from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from headland_edge.advisor import LAST_MORNINGS
from headland_edge.features import clean
from headland_edge.readings import carry_depletion
from headland_edge.readings import last_seen as device_last_seen
from headland_edge.records import COLUMNS, Records
from headland_edge.rules import FourStageRule, SplitRule
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.crops.interface import Field, Harvest
from tasks.policies.growers import Splits, Threshold, Weekly, carried_depletion, due_splits, last_seen
from tasks.policies.money import profit_usd_ha

RULE = FourStageRule((0.3, 0.5, 0.6, 0.9), (25, 54, 107, 140), 30.0, 5.0)
SPLITS = SplitRule((7.0, 480.0, 704.0), (70.0, 40.0, 30.0), (0.5, 0.25, 0.25), 120.0)


def field(crop="maize", number=0):
    return Field(f"{crop}-{number}", crop, "x", 2001, "Loam", date(2001, 5, 1), 140, 0.7)


def records(days, **columns):
    values = np.full((1, days, len(COLUMNS)), np.nan)
    for name, column in columns.items():
        values[0, :, COLUMNS.index(name)] = column
    return values


def test_last_seen_is_the_latest_reading_not_the_largest():
    readings = np.array([[0.1, 0.9, np.nan], [np.nan, np.nan, np.nan], [np.nan, 0.2, 0.4]])
    np.testing.assert_array_equal(last_seen(readings), [0.9, np.nan, 0.4])


def test_threshold_refills_past_the_stage_threshold_only():
    policy = Threshold([RULE])
    active = np.array([True])
    dry = policy.decide((field(),), records(11, depletion_frac=0.31, taw_mm=80.0), active)
    wet = policy.decide((field(),), records(11, depletion_frac=0.29, taw_mm=80.0), active)
    assert dry.irrigation_mm[0] == pytest.approx(0.31 * 80.0)
    assert wet.irrigation_mm[0] == 0.0


def test_threshold_waits_while_no_probe_was_ever_seen():
    decided = Threshold([RULE]).decide((field(),), records(11, taw_mm=80.0), np.array([True]))
    assert decided.irrigation_mm[0] == 0.0


def test_threshold_reckons_through_an_outage_and_counts_the_water_it_gave():
    seen = np.full(12, np.nan)
    seen[8] = 0.40
    dry = records(12, depletion_frac=seen, taw_mm=100.0, et0_mm=5.0, rain_mm=0.0, irrigation_mm=0.0)
    given = np.zeros(12)
    given[9] = 30.0
    watered = records(12, depletion_frac=seen, taw_mm=100.0, et0_mm=5.0, rain_mm=0.0, irrigation_mm=given)
    active, policy = np.array([True]), Threshold([RULE])
    assert policy.decide((field(),), dry, active).irrigation_mm[0] == pytest.approx(30.0)
    assert policy.decide((field(),), watered, active).irrigation_mm[0] == 0.0


def test_each_field_may_have_a_rule_of_its_own():
    both = np.repeat(records(11, depletion_frac=0.4, taw_mm=80.0), 2, axis=0)
    never = RULE.with_thresholds((0.95,) * 4)
    decided = Threshold([RULE, never]).decide((field(), field(number=1)), both, np.array([True, True]))
    assert decided.irrigation_mm[0] > 0 == decided.irrigation_mm[1]


def test_weekly_calendar():
    days = [
        day for day in range(140) if Weekly().decide((field(),), records(day + 1), np.ones(1, bool)).irrigation_mm[0]
    ]
    assert days[0] == 35
    assert set(np.diff(days)) == {7}
    assert days[-1] <= 112


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_split_dates_of_many_fields_are_those_of_the_devices_rule(data):
    days = data.draw(st.integers(1, 70))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = records(days, tmin_c=rng.normal(8, 6, days), tmax_c=rng.normal(18, 8, days))
    values[0, rng.random(days) < data.draw(st.floats(0, 0.9)), 2:4] = np.nan
    known = due_splits((field("wheat"),), values, [SPLITS])[0]
    device = SPLITS.due_split(Records("wheat", date(2001, 5, 1), values[0]))
    assert known == (-1 if device is None else device)


def test_soil_test_rule_doses_less_on_a_rich_field_and_only_on_the_date():
    poor, rich = (records(8, soil_mineral_n_kg_ha=n, tmin_c=5.0, tmax_c=15.0) for n in (10.0, 90.0))
    policy, wheat = Splits([SPLITS]), (field("wheat"),)
    doses = [policy.decide(wheat, r, np.ones(1, bool)).nitrogen_kg_ha[0] for r in (poor, rich)]
    assert doses == [65.0, 25.0]
    assert policy.decide(wheat, poor[:, :7], np.ones(1, bool)).nitrogen_kg_ha[0] == 0.0


def test_profit_counts_grain_water_and_nitrogen(params):
    one = np.ones(1)
    harvest = Harvest(10 * one, 200 * one, 50 * one, np.array([130]), np.array([True]))
    prices = params.prices.model_copy(
        update={"maize_usd_t": 180.0, "water_usd_ha_mm": 1.0, "maize_fixed_usd_ha": 1728.0, "wheat_usd_t": 200.0,
                "nitrogen_usd_kg": 1.0, "wheat_fixed_usd_ha": 0.0}
    )  # fmt: skip
    assert profit_usd_ha("maize", harvest, prices)[0] == pytest.approx(1800 - 200 - 1728)
    assert profit_usd_ha("wheat", harvest, prices)[0] == pytest.approx(2000 - 50)


@given(seed=st.integers(0, 10_000), mornings=st.integers(1, 50))
def test_readings_are_carried_on_as_a_device_carries_them(seed, mornings):
    rng = np.random.default_rng(seed)
    values = np.full((3, mornings, len(COLUMNS)), np.nan)
    usual = {"rain_mm": rng.gamma(0.3, 10, (3, mornings)), "et0_mm": rng.uniform(0, 8, (3, mornings))}
    usual |= {"irrigation_mm": rng.gamma(0.2, 10, (3, mornings)), "taw_mm": np.full((3, mornings), 120.0)}
    usual |= {"depletion_frac": rng.uniform(-0.1, 1.0, (3, mornings))}
    for name, column in usual.items():
        gone = rng.random((3, mornings)) < (0.6 if name in ("depletion_frac", "et0_mm", "rain_mm") else 0.0)
        values[:, :, COLUMNS.index(name)] = np.where(gone, np.nan, column)
    values[:, -1, COLUMNS.index("depletion_frac")] = np.nan
    fields = tuple(field(number=i) for i in range(3))
    found = carried_depletion(fields, values, np.ones(3, bool))
    for i in range(3):
        history, _ = clean(Records("maize", fields[i].sowing_date, values[i]))
        reading = device_last_seen(history, "depletion_frac")
        known = carry_depletion(history, reading, 120.0, LAST_MORNINGS) if reading else None
        assert (np.isnan(found[i]) and known is None) or found[i] == known.depletion_frac
