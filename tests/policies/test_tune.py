from __future__ import annotations

import numpy as np
import pytest
from joblib import Parallel

from tasks.crops.fields import draw_fields
from tasks.policies.tune import (
    Ground,
    Search,
    day_curve,
    exact,
    halving,
    irrigation_rule,
    scorer,
    tune_day_curve,
    tune_irrigation,
)
from tests.conftest import made_up_weather


def test_halving_finds_the_top_of_a_hill():
    top = np.array([0.2, 0.8])
    search = Search(np.zeros(2), np.ones(2), lambda pool, fields: np.array([-np.sum((c - top) ** 2) for c in pool]))
    best, value = halving(search, tuple(range(16)), np.random.default_rng(0), 64, 8, 60)  # type: ignore[arg-type]
    assert np.abs(best - top).max() < 0.05
    assert value == pytest.approx(-np.sum((best - top) ** 2))


def test_halving_never_ends_below_what_every_engineer_tries_first():
    known = np.array([0.5, 0.5])
    search = Search(
        np.zeros(2), np.ones(2), lambda pool, fields: np.array([float(np.array_equal(c, known)) for c in pool])
    )
    best, value = halving(search, tuple(range(16)), np.random.default_rng(0), 8, 4, 12, [known])  # type: ignore[arg-type]
    assert value == 1.0
    np.testing.assert_array_equal(best, known)


def test_exact_sensors_neither_drift_nor_drop_out(params):
    quiet = exact(params.sensors)
    assert quiet.depletion_frac.noise < params.sensors.depletion_frac.noise
    assert quiet.depletion_frac.drift_per_day == 0.0 == quiet.dropout.starts_per_day


@pytest.fixture(scope="module")
def ground(params):
    weather = {f"champion/{year}": made_up_weather("champion", year) for year in (2001, 2002)}
    return Ground(weather, params.sensors, params, informed=False)


def test_candidates_are_scored_on_every_field_alike(params, ground):
    fields = draw_fields("maize", "champion", [2001, 2002], 2, params.fields.maize, params.seed)
    with Parallel(n_jobs=1) as workers:
        score = scorer(ground, lambda c: irrigation_rule(c, params), workers)
        never, often = np.full(4, 0.95), np.full(4, 0.4)
        together = score([never, often], fields)
        alone = np.array([score([never], fields)[0], score([often], fields)[0]])
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert together[0] != together[1]


@pytest.mark.slow
def test_a_tuned_rule_beats_the_growers_70_percent_on_its_own_seasons(params, ground):
    few = params.model_copy(
        update={"rules": params.rules.model_copy(update={"irrigation": params.rules.irrigation.model_copy(
            update={"candidates": 8, "survivors": 3, "refinements": 6})})}
    )  # fmt: skip
    ground = Ground(ground.weather, ground.sensors, few, informed=False)
    fields = draw_fields("maize", "champion", [2001, 2002], 2, params.fields.maize, params.seed)
    with Parallel(n_jobs=1) as workers:
        _, value = tune_irrigation(ground, fields, workers)
        seventy = scorer(ground, lambda c: irrigation_rule(c, few), workers)([np.full(4, 0.3)], fields)[0]
    assert value >= seventy


def test_a_candidate_outside_the_box_is_a_rule_inside_it(params):
    settings = params.rules.irrigation
    n = len(settings.curve_days)
    rule = day_curve(np.array([-1.0] * (n - 1) + [2.0, 0.0, 9.0]), params)
    assert (rule.thresholds_frac[0], rule.thresholds_frac[-1], rule.refill_frac) == (0.02, 0.98, 0.3)
    assert rule.max_irrigation_mm == settings.max_irrigation_mm


@pytest.mark.slow
def test_a_day_curve_never_earns_less_than_the_stages_it_starts_from(params, ground):
    fields = draw_fields("maize", "champion", [2001, 2002], 2, params.fields.maize, params.seed)
    few = params.model_copy(
        update={"rules": params.rules.model_copy(update={"irrigation": params.rules.irrigation.model_copy(
            update={"curve_generations": 3})})}
    )  # fmt: skip
    start = irrigation_rule(np.array([0.5, 0.5, 0.6, 0.8]), params)
    with Parallel(n_jobs=1) as workers:
        at_start = Ground(ground.weather, ground.sensors, few, informed=False)
        first, second = (tune_day_curve(at_start, fields, workers, start) for _ in range(2))
        stages = scorer(ground, lambda _: start, workers)([np.zeros(1)], fields)[0]
    assert first[1] >= stages - 1.0  # nine knots follow the steps of four stages closely, not exactly
    assert first == second
