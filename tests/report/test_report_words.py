"""Sentences say what the numbers say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.report import words


def gain(mean: float, low: float, high: float, seasons: int = 10) -> dict[str, float]:
    return {"mean": mean, "standard_error": 1.0, "low_95": low, "high_95": high, "seasons": seasons}


def home(found: dict[str, float]) -> dict[str, Any]:
    return {"strong_baseline": "tuned_threshold", "gain_usd_ha": {"tuned_threshold": found}}


@pytest.mark.parametrize(
    ("found", "verdict", "said"),
    [
        (gain(20, 5, 35), "more", "more than chance explains"),
        (gain(-20, -35, -5), "less", "the device loses here"),
        (gain(3, -5, 11), "chance", "cannot be told from chance"),
        (gain(-3, -11, 5), "chance", "cannot be told from chance"),
        (gain(20, 0, 35), "chance", "cannot be told from chance"),
        (gain(20, 20, 20, seasons=1), "chance", "cannot be told from chance"),
    ],
)
def test_a_gain_is_called_what_its_interval_allows(found: dict[str, float], verdict: str, said: str) -> None:
    assert words.verdict(found) == verdict
    assert said in words.gain_sentence("maize", "tuned_threshold", found)


def test_a_loss_is_told_as_a_loss() -> None:
    lost = gain(-20, -35, -5)
    assert "20.0 USD/ha less than the tuned threshold" in words.gain_sentence("maize", "tuned_threshold", lost)
    assert words.bottom_line("maize", home(lost)).startswith("It loses")
    steps = words.next_steps({"maize": {"home": home(lost)}}, {})
    assert steps[0].startswith("Maize: keep the tuned threshold")


def test_a_loss_elsewhere_warns_against_carrying_the_advice_there() -> None:
    scenes = {"home": home(gain(20, 5, 35)), "other_site/tunis": home(gain(-20, -35, -5))}
    assert any(
        "do not carry the advice to another site (Tunis)" in step for step in words.next_steps({"maize": scenes}, {})
    )


def test_a_band_that_misses_its_coverage_is_warned_of() -> None:
    models = {"yield": {"mid_season": {"maize": {"coverage_frac": 0.6}, "wheat": {"coverage_frac": 0.8}}}}
    steps = words.next_steps({}, models)
    assert len(steps) == 1
    assert "maize" in steps[0]
    assert "60.0 %" in steps[0]


def test_numbers_have_a_true_minus_and_zero_has_no_sign() -> None:
    assert words.number(-12.34, 1) == "−12.3"
    assert words.signed(3.0) == "+3.0"
    assert words.signed(-0.04) == words.signed(0.04) == "0.0"


def test_policies_come_in_one_order_with_the_device_last_and_unknown_ones_kept() -> None:
    known = ["device", "tuned_threshold", "new_rule", "rainfed"]
    assert words.policies("maize", known) == ["rainfed", "tuned_threshold", "new_rule", "device"]


@given(st.sets(st.integers(1900, 2100), max_size=40))
def test_year_ranges_tell_every_year_and_no_other(years: set[int]) -> None:
    told: set[int] = set()
    for part in filter(None, words.year_ranges(years).split(", ")):
        first, _, last = part.partition("–")
        told |= set(range(int(first), int(last or first) + 1))
    assert told == years
