"""Rules for many fields at once give what they give one."""

from __future__ import annotations

import numpy as np
from headland_edge.rules import DayCurveRule, FourStageRule, SplitRule
from hypothesis import given
from hypothesis import strategies as st

from tasks.policies.many import irrigation_doses_mm, nitrogen_doses_kg_ha

STAGES = FourStageRule((0.3, 0.5, 0.6, 0.9), (25, 54, 107, 140), 30.0, 5.0)
CURVE = DayCurveRule((1, 40, 90), (0.8, 0.4, 0.6), 0.7, 25.0, 5.0)
LIMITED = DayCurveRule((1, 40, 90), (0.8, 0.4, 0.6), 0.7, 25.0, 5.0, season_limit_mm=150.0)
SPLITS = SplitRule((7.0, 480.0, 704.0), (70.0, 40.0, 30.0), (0.5, 0.25, 1.25), 60.0)


@given(
    rule=st.sampled_from([STAGES, CURVE, LIMITED]),
    day=st.integers(0, 150),
    fields=st.lists(st.tuples(st.floats(-0.3, 1.3), st.floats(5, 400), st.floats(0, 300)), min_size=1, max_size=5),
)
def test_irrigation_of_many_is_irrigation_of_each(rule, day, fields):
    depletion, taw, applied = np.array(fields).T
    together = irrigation_doses_mm(rule, day, depletion, taw, applied)
    assert together.tolist() == [rule.irrigation_mm(day, *each) for each in fields]


def test_nothing_is_given_where_the_soil_is_not_known():
    found = irrigation_doses_mm(STAGES, 60, np.array([np.nan, 0.9]), np.array([100.0, np.nan]), np.zeros(2))
    assert found.tolist() == [0.0, 0.0]


@given(fields=st.lists(st.tuples(st.integers(-1, 2), st.floats(-5, 200)), min_size=1, max_size=5))
def test_nitrogen_of_many_is_nitrogen_of_each(fields):
    split, supply = np.array([s for s, _ in fields]), np.array([n for _, n in fields])
    together = nitrogen_doses_kg_ha(SPLITS, split, supply)
    assert together.tolist() == [SPLITS.dose_kg_ha(s, n) if s >= 0 else 0.0 for s, n in fields]


def test_a_season_gets_no_more_than_its_limit():
    assert LIMITED.irrigation_mm(60, 0.9, 200.0, 140.0) == 10.0
    assert LIMITED.irrigation_mm(60, 0.9, 200.0, 146.0) == 0.0  # four mm are not worth starting the pump
    assert LIMITED.left_mm(200.0) == 0.0
