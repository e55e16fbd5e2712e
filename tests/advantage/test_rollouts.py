"""What a dose is worth, by rollouts, against the same seasons lived one by one; and the net that learns it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from headland_edge.advantage import inputs_for
from headland_edge.rules import FourStageRule, SplitRule

from tasks.advantage.net import FloatNet, ShippedNet, fit, int8
from tasks.advantage.rollouts import gains_usd_ha
from tasks.advantage.worlds import Futures, spliced, world_of
from tasks.crops.interface import Decision, open_batch
from tasks.policies.many import irrigation_doses_mm
from tasks.policies.money import profit_usd_ha
from tests.conftest import made_up_weather

YEARS = {f"x/{year}": replace(made_up_weather("x", year), site=f"x/{year}") for year in range(2001, 2005)}
STAGES = FourStageRule((0.3, 0.5, 0.6, 0.9), (25, 54, 107, 140), 30.0, 5.0)
SPLITS = SplitRule((7.0, 480.0, 704.0), (70.0, 40.0, 30.0), (0.5, 0.25, 0.25), 120.0)


def until(batch, rule, days):
    for day in range(days):
        morning = batch.morning()
        dose = irrigation_doses_mm(rule, day, morning.depletion_frac, morning.taw_mm, np.zeros(len(batch.fields)))
        batch.step(Decision(dose, np.zeros(len(batch.fields))))
    return batch


def test_the_gain_of_a_dose_is_what_two_seasons_differ_by(params):
    """One field, one future: the mean over futures is that season, lived here day by day without branching."""
    world = world_of("maize", YEARS, 1, params, "a", count=1)
    own = world.weather[world.fields[0].site]
    only = {world.fields[0].site: own}
    batch = until(open_batch(world.fields, world.weather), STAGES, 60)
    futures = Futures("maize", only, params)  # the only future is the field's own weather
    rule_dose = np.array([0.0])
    found = gains_usd_ha(
        batch,
        np.array([0]),
        60,
        rule_dose,
        np.array([-1]),
        (0.0, 15.0, 30.0),
        STAGES,
        futures,
        4,
        params.prices,
        np.random.default_rng(0),
    )
    profits = []
    for dose in (0.0, 15.0, 30.0):
        alone = until(open_batch(world.fields, world.weather), STAGES, 60)
        alone.step(Decision(np.array([dose]), np.zeros(1)))
        day = 61
        while not alone.finished:
            morning = alone.morning()
            given = irrigation_doses_mm(STAGES, day, morning.depletion_frac, morning.taw_mm, np.zeros(1))
            alone.step(Decision(given, np.zeros(1)))
            day += 1
        profits.append(float(profit_usd_ha("maize", alone.harvest(), params.prices)[0]))
    np.testing.assert_allclose(found[0], np.array(profits) - profits[0], atol=1e-9)
    assert found[0, 1] != 0.0


def test_the_rules_own_dose_gains_nothing(params):
    world = world_of("maize", YEARS, 2, params, "a")
    batch = until(open_batch(world.fields, world.weather), STAGES, 50)
    doses = np.full(len(world), 20.0)
    found = gains_usd_ha(
        batch,
        np.arange(len(world)),
        50,
        doses,
        np.full(len(world), -1),
        (0.0, 20.0),
        STAGES,
        Futures("maize", YEARS, params),
        3,
        params.prices,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(found[:, 1], 0.0)
    assert (found[:, 0] != 0.0).any()


def test_a_split_that_is_decided_today_is_not_given_again_tomorrow(params):
    """A device's degree days are noisy: it may decide the second split a day before the true sum gets there."""
    years = {key: spliced([each], key, 20, np.random.default_rng(0)) for key, each in YEARS.items()}
    world = world_of("wheat", years, 1, params, "a")
    batch = open_batch(world.fields, years)
    nothing = np.zeros(len(world))
    for _ in range(35):
        batch.step(Decision(nothing, nothing))
    found = [
        gains_usd_ha(
            batch,
            np.arange(len(world)),
            35,
            np.full(len(world), 30.0),
            np.full(len(world), split),
            (0.0, 60.0),
            SPLITS,
            Futures("wheat", years, params),
            2,
            params.prices.model_copy(update={"wheat_usd_t": 0.0}),
            np.random.default_rng(0),
        )
        for split in (1, 2)
    ]
    # Grain is worth nothing here: what counts is the nitrogen given. After the last split only today's dose is.
    np.testing.assert_allclose(found[1], [[30.0, -30.0]] * len(world), atol=1e-9)
    # After the second one the third is still to come, larger where less was given today.
    assert (found[0][:, 0] < 30.0).all()


@pytest.fixture(scope="module")
def learned() -> tuple[np.ndarray, np.ndarray, FloatNet]:
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0, 1, (4000, len(inputs_for("maize")))).astype(np.float32)
    gains = np.stack([20 * (inputs[:, 0] - 0.5), 10 * inputs[:, 3] * inputs[:, 0], -8 * inputs[:, 2]], axis=1)
    return inputs, gains, fit(inputs, gains, width=24, epochs=25, seed=1)


def test_the_net_learns_what_it_is_shown_and_the_same_each_time(learned):
    inputs, gains, net = learned
    assert np.abs(net(inputs) - gains).mean() < 0.5
    again = fit(inputs, gains, width=24, epochs=25, seed=1)
    for (a, b), (c, d) in zip(net.layers, again.layers, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_integers_say_nearly_the_same_and_run_as_integers(learned):
    from tasks.compression.onnx_graph import kernels

    inputs, _, net = learned
    onnx = int8(net, inputs, np.random.default_rng(0))
    assert onnx == int8(net, inputs, np.random.default_rng(0))
    said = ShippedNet(onnx, 3)(inputs)
    assert np.abs(said - net(inputs)).mean() < 0.2
    assert kernels(onnx)["QLinearConv"] == 2


def test_no_dose_is_worth_more_than_the_water_that_is_left(params):
    limited = replace(STAGES, season_limit_mm=40.0)
    world = world_of("maize", YEARS, 1, params, "a")
    batch = open_batch(world.fields, world.weather)
    nothing = np.zeros(len(world))
    for day in range(70):
        batch.step(Decision(np.full(len(world), 30.0 if day == 60 else 0.0), nothing))
    found = gains_usd_ha(
        batch,
        np.arange(len(world)),
        70,
        nothing,
        np.full(len(world), -1),
        (0.0, 10.0, 30.0),
        limited,
        Futures("maize", YEARS, params),
        2,
        params.prices,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(found[:, 1], found[:, 2])
