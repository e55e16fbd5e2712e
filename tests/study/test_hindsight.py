"""Hindsight is a bound: never below what it starts from, and the best of a grid where the grid is small."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from headland_edge.rules import SplitRule

from tasks.crops.interface import Decision, Field, open_batch
from tasks.policies.money import profit_usd_ha
from tasks.study.folds import Plan, StudyError, fold_params, params_of, place_of, stage
from tasks.study.hindsight import best_depths_mm, best_doses_kg_ha
from tests.conftest import ROOT, made_up_weather

WEATHER = {"x": replace(made_up_weather("x", 2001))}
SPLITS = SplitRule((7.0, 480.0, 704.0), (70.0, 40.0, 30.0), (0.5, 0.25, 0.25), 120.0)


def field(crop):
    soil = "SiltClayLoam" if crop == "maize" else "loam"
    return Field(crop, crop, "x", 2001, soil, date(2001, 4, 20), 140, 0.5, 20.0, 0.1)


def lived(plan, crop="maize"):
    batch = open_batch((field(crop),), WEATHER)
    for day in range(plan.size):
        if batch.finished:
            break
        batch.step(Decision(plan[day : day + 1], np.zeros(1)))
    return batch.harvest()


@pytest.mark.slow
@pytest.mark.parametrize("limit_mm", [None, 60.0])
def test_depths_earn_what_is_said_and_no_less_than_the_start(params, limit_mm):
    start = np.zeros((1, 140))
    start[0, [50, 70]] = 30.0
    plan, earned = best_depths_mm((field("maize"),), WEATHER, start, params.prices, 1, limit_mm)
    assert earned[0] == profit_usd_ha("maize", lived(plan[0]), params.prices)[0]
    assert earned[0] >= profit_usd_ha("maize", lived(start[0]), params.prices)[0]
    assert limit_mm is None or plan.sum() <= limit_mm


def test_doses_are_the_best_of_all_on_the_grid(params):
    doses, earned = best_doses_kg_ha((field("wheat"),) * 3, WEATHER, SPLITS, params.prices, 40.0)
    assert earned.tolist() == [earned[0]] * 3
    few, most = best_doses_kg_ha((field("wheat"),), WEATHER, SPLITS, params.prices, 120.0)
    assert most[0] <= earned[0]
    assert set(few[0]) <= {0.0, 120.0}
    assert doses.shape == (3, 3)


def test_another_plan_or_other_params_lie_elsewhere(tmp_path):
    first = place_of(ROOT, Plan())
    assert first == place_of(ROOT, Plan(seeds=(1,)))  # more seeds go on where fewer ended
    assert first != place_of(ROOT, Plan(folds=5))
    assert first != place_of(ROOT, Plan(changes=(("seed", 3),)))


def test_the_params_of_a_fold_are_checked_like_any(tmp_path):
    plan = Plan(changes=(("advantage.maize.rounds", 2),))
    params = params_of(tmp_path, fold_params(ROOT, plan, 1, 2))
    assert params.fold is not None
    assert (params.fold.number, params.fold.count) == (1, 4)
    assert params.advantage["maize"].rounds == 2
    assert params.seed == fold_params(ROOT, plan, 1)["seed"] + 2000


def test_a_stage_that_fails_is_named_and_not_marked_as_done(tmp_path):
    with pytest.raises(StudyError, match=r"log\.txt"):
        stage(tmp_path, "tasks.no_such_stage")
    assert not (tmp_path / "done.json").exists()
    stage(tmp_path, "platform")
    (tmp_path / "log.txt").write_text("")
    stage(tmp_path, "platform")  # done: not run again
    assert (tmp_path / "log.txt").read_text() == ""
