from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from headland_edge.records import COLUMN_INFO, Records
from headland_edge.rules import DayCurveRule, FourStageRule, RuleError, SplitRule, rule_from_dict
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.small_bundle import IRRIGATION, NITROGEN, histories, season

amounts = st.floats(0, 500)


@pytest.mark.parametrize(
    ("day", "depletion", "taw", "expected"),
    [
        (0, 0.30, 50.0, 0.0),  # at the threshold is not above it
        (0, 0.31, 50.0, 15.5),
        (25, 0.35, 50.0, 17.5),  # a stage's last day belongs to it
        (26, 0.35, 50.0, 0.0),
        (26, 0.45, 50.0, 22.5),
        (66, 0.55, 100.0, 30.0),  # no more than max_irrigation_mm
        (140, 0.55, 100.0, 0.0),
        (200, 0.65, 40.0, 26.0),  # the last threshold holds after its stage
        (0, 0.40, 10.0, 0.0),  # 4 mm is less than min_irrigation_mm
        (0, -0.2, 50.0, 0.0),
    ],
)
def test_four_stages(day: int, depletion: float, taw: float, expected: float) -> None:
    assert IRRIGATION.irrigation_mm(day, depletion, taw) == pytest.approx(expected)


@given(st.integers(0, 400), st.floats(-1, 2), st.floats(1, 800), st.lists(st.floats(0, 1.5), min_size=4, max_size=4))
def test_irrigation_is_nothing_or_within_its_limits(
    day: int, depletion: float, taw: float, thresholds: list[float]
) -> None:
    amount = IRRIGATION.with_thresholds(tuple(thresholds)).irrigation_mm(day, depletion, taw)
    assert amount == 0.0 or 5.0 <= amount <= 30.0


def test_irrigation_refuses_what_is_not_finite() -> None:
    for depletion, taw in ((float("nan"), 100.0), (0.5, float("inf"))):
        with pytest.raises(ValueError, match="not a finite amount"):
            IRRIGATION.irrigation_mm(10, depletion, taw)


CURVE = DayCurveRule((10, 20, 60), (0.2, 0.6, 0.4), 0.5, 30.0, 5.0)


@pytest.mark.parametrize(
    ("day", "threshold"), [(0, 0.2), (10, 0.2), (15, 0.4), (20, 0.6), (50, 0.45), (60, 0.4), (400, 0.4)]
)
def test_a_day_curve_runs_straight_between_its_knots(day: int, threshold: float) -> None:
    assert CURVE.threshold_frac(day) == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("day", "depletion", "taw", "expected"),
    [
        (15, 0.4, 100.0, 0.0),  # at the threshold is not above it
        (15, 0.41, 100.0, 20.5),  # half of it is given back
        (15, 0.9, 100.0, 30.0),  # no more than max_irrigation_mm
        (15, 0.41, 20.0, 0.0),  # 4.1 mm is less than min_irrigation_mm
    ],
)
def test_a_day_curve_gives_back_its_share(day: int, depletion: float, taw: float, expected: float) -> None:
    assert CURVE.irrigation_mm(day, depletion, taw) == pytest.approx(expected)


@given(st.integers(0, 400), st.floats(-1, 2), st.floats(1, 800))
def test_a_day_curve_is_within_its_limits_and_survives_json(day: int, depletion: float, taw: float) -> None:
    amount = CURVE.irrigation_mm(day, depletion, taw)
    assert amount == 0.0 or 5.0 <= amount <= 30.0
    assert rule_from_dict(json.loads(json.dumps(CURVE.to_dict()))) == CURVE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knot_days": [10, 20]}, "thresholds_frac needs 2 numbers, got 3"),
        ({"knot_days": [10], "thresholds_frac": [0.5]}, "knot_days needs 2 numbers, got 1"),
        ({"knot_days": [10, 10, 60]}, "must ascend"),
        ({"knot_days": [10, 20.5, 60]}, "whole numbers"),
        ({"refill_frac": 1.5}, "refill_frac must lie in 0 to 1"),
        ({"refill_frac": float("nan")}, "refill_frac must lie in 0 to 1"),
        ({"min_irrigation_mm": 40.0}, "0 <= min_irrigation_mm"),
    ],
)
def test_a_day_curve_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        rule_from_dict({**CURVE.to_dict(), **change})


def test_split_doses() -> None:
    assert NITROGEN.dose_kg_ha(0, 40.0) == 80.0
    assert NITROGEN.dose_kg_ha(1, 1000.0) == 0.0
    assert NITROGEN.dose_kg_ha(0, -1000.0) == 120.0
    fixed = SplitRule((7.0, 480.0, 704.0), (40.0, 20.0, 20.0), (0.0, 0.0, 0.0), 120.0)
    assert [fixed.dose_kg_ha(i, 77.0) for i in range(3)] == [40.0, 20.0, 20.0]
    with pytest.raises(ValueError, match="not finite"):
        NITROGEN.dose_kg_ha(0, float("nan"))


def test_splits_fall_due_by_day_then_by_degree_days() -> None:
    records = season("wheat", 60)  # 15 degree days each day: 480 on morning 32, 704 passed on morning 47
    assert NITROGEN.due_mornings(records) == (7, 32, 47)
    due = {k: NITROGEN.due_split(records.until(k)) for k in range(60)}
    assert {k: split for k, split in due.items() if split is not None} == {7: 0, 32: 1, 47: 2}
    assert NITROGEN.due_mornings(records.until(20)) == (7, None, None)


@given(histories(wild=True, max_mornings=120))
def test_each_split_is_due_on_at_most_one_morning_and_in_order(records: Records) -> None:
    wheat = Records("wheat", records.sowing_date, records.values)
    due = [NITROGEN.due_split(wheat.until(k)) for k in range(wheat.n_mornings)]
    seen = [split for split in due if split is not None]
    assert seen.count(1) <= 1
    assert sorted(seen) == sorted(set(seen))
    for split, morning in enumerate(NITROGEN.due_mornings(wheat)):
        if morning is not None and NITROGEN.due_mornings(wheat).count(morning) == 1:
            assert due[morning] == split


@given(st.lists(amounts, min_size=3, max_size=3), st.lists(st.floats(-3, 3), min_size=3, max_size=3), amounts)
def test_a_split_rule_survives_json(base: list[float], slope: list[float], most: float) -> None:
    if most > COLUMN_INFO["nitrogen_kg_ha"].high:
        with pytest.raises(RuleError, match="max_dose_kg_ha"):
            SplitRule((7.0, 480.0, 704.0), tuple(base), tuple(slope), most)
        return
    rule = SplitRule((7.0, 480.0, 704.0), tuple(base), tuple(slope), most)
    assert rule_from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    assert 0.0 <= rule.dose_kg_ha(2, 50.0) <= most


@given(st.lists(st.floats(0, 1.5), min_size=4, max_size=4), st.floats(0, 5), st.floats(5, 50))
def test_a_four_stage_rule_survives_json(thresholds: list[float], least: float, most: float) -> None:
    rule = FourStageRule(tuple(thresholds), (25, 65, 107, 140), most, least)
    assert rule_from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


def test_numpy_numbers_become_plain_ones() -> None:
    rule = FourStageRule(tuple(np.array([0.3, 0.4, 0.5, 0.6])), tuple(np.array([25, 65, 107, 140])), 30.0, 5.0)
    assert json.dumps(rule.to_dict()) == json.dumps(IRRIGATION.to_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "five_stage"}, "five_stage"),
        ({"kind": None}, "kind"),
        ({"thresholds_frac": [0.1, 0.2, 0.3]}, "thresholds_frac needs 4"),
        ({"thresholds_frac": [0.1, 0.2, 0.3, float("nan")]}, "thresholds_frac must be finite"),
        ({"thresholds_frac": "0.3"}, "thresholds_frac must be a list"),
        ({"thresholds_frac": [0.1, 0.2, 0.3, True]}, "thresholds_frac must be a number"),
        ({"stage_end_days": [25, 25, 107, 140]}, "stage_end_days must ascend"),
        ({"stage_end_days": [25.5, 65, 107, 140]}, "stage_end_days must be whole"),
        ({"max_irrigation_mm": 1.0}, "min_irrigation_mm <= max_irrigation_mm"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_bad_rule_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RuleError) as caught:
        rule_from_dict({**IRRIGATION.to_dict(), **change})
    assert named in str(caught.value)


@pytest.mark.parametrize("key", ["split_gdd", "base_kg_ha", "slope", "max_dose_kg_ha"])
def test_a_rule_with_a_key_missing_is_refused(key: str) -> None:
    plain = NITROGEN.to_dict()
    del plain[key]
    with pytest.raises(RuleError, match=key):
        rule_from_dict(plain)
    with pytest.raises(RuleError, match="object"):
        rule_from_dict([plain])


def test_splits_must_ascend() -> None:
    with pytest.raises(RuleError, match="ascend"):
        SplitRule((7.0, 704.0, 480.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 120.0)
