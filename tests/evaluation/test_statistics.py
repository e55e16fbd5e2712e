from __future__ import annotations

import numpy as np
import pytest

from tasks.evaluation.statistics import band, paired_by_season, pinball


def test_seasons_are_the_independent_draws():
    season = np.repeat([2001, 2002], 50)
    difference = np.where(season == 2001, 1.0, 3.0)
    found = paired_by_season(difference, season)
    assert found.mean == 2.0
    assert found.standard_error == pytest.approx(1.0)
    assert found.high_95 - found.mean == pytest.approx(12.706, abs=1e-3)
    assert found.seasons == 2


def test_one_season_has_no_interval_to_tell():
    found = paired_by_season(np.array([4.0, 6.0]), np.array([1, 1]))
    assert (found.mean, found.low_95, found.high_95, found.seasons) == (5.0, 5.0, 5.0, 1)


def test_nothing_is_called_more_than_chance_in_one_case_of_twenty():
    rng = np.random.default_rng(0)
    season = np.arange(10)
    found = [paired_by_season(rng.normal(size=10), season) for _ in range(2000)]
    assert np.mean([f.low_95 > 0 or f.high_95 < 0 for f in found]) == pytest.approx(0.05, abs=0.015)


def test_pinball_by_hand():
    assert pinball(np.array([1.0]), np.array([[0.0, 1.0, 3.0]])) == pytest.approx((0.1 * 1 + 0 + 0.1 * 2) / 3)


def test_pinball_is_least_at_the_true_quantiles():
    truth = np.random.default_rng(0).normal(size=20_000)
    right = np.tile(np.quantile(truth, [0.1, 0.5, 0.9]), (truth.size, 1))
    assert pinball(truth, right) < min(
        pinball(truth, right * 0.7), pinball(truth, right * 1.3), pinball(truth, right + 0.2)
    )


def test_band_counts_and_width():
    found = band(np.array([0.0, 1.0, 5.0]), np.tile([0.0, 0.5, 2.0], (3, 1)))
    assert found == {"coverage_frac": pytest.approx(2 / 3), "width": 2.0}
