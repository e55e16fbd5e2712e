"""Hindsight bounds: what could have been earned by who had known the season's weather, found by search.

A search gives a bound from below: the true optimum is at least as good. It shares nothing with the policies but the
crop simulators.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from headland_edge.features import GDD_BASE_C
from headland_edge.rules import SplitRule
from numpy.typing import NDArray

from tasks.crops.interface import CropBatch, DailyWeather, Decision, Field, FloatArray, open_batch
from tasks.crops.wheat import WheatBatch
from tasks.params import Prices
from tasks.policies.money import profit_usd_ha

_BRANCHES = 6000
_DEPTHS_MM = (0.0, 10.0, 20.0, 30.0)
_MOVES_DAYS = (-4, -2, -1, 1, 2, 4)
_QUIET_DAYS = 4
"""At the season's ends water is worth nothing: not searched."""


def best_depths_mm(
    fields: tuple[Field, ...],
    weather: dict[str, DailyWeather],
    start_mm: FloatArray,
    prices: Prices,
    sweeps: int = 2,
    season_limit_mm: float | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Daily depths of each field by coordinate ascent: another depth on a day, or a day's depth moved, while it pays.

    Args:
        fields: of maize.
        weather: by site.
        start_mm: shape (n_fields, days), depths to start from.
        prices: of grain and water.
        sweeps: times every day is tried.
        season_limit_mm: most that a season may get.

    Returns:
        Depths, shape (n_fields, days), and their profit, USD/ha.
    """
    fresh = open_batch(fields, weather)
    plan, days = start_mm.copy(), start_mm.shape[1]
    best = _profits(fresh, np.arange(len(fields)), plan, prices)
    for _ in range(sweeps):
        for day in range(_QUIET_DAYS, days - _QUIET_DAYS):
            rows, tries = _variants(plan, day, season_limit_mm)
            earned = _profits(fresh, rows, tries, prices)
            for i in np.unique(rows):
                mine = np.flatnonzero(rows == i)
                top = mine[int(np.argmax(earned[mine]))]
                if earned[top] > best[i]:
                    best[i], plan[i] = earned[top], tries[top]
    return plan, best


def _variants(plan: FloatArray, day: int, limit_mm: float | None) -> tuple[NDArray[np.int64], FloatArray]:
    """Plans that differ on ``day``, and whose they are."""
    rows, tries = [], []
    for i, own in enumerate(plan):
        changed = [(day, depth) for depth in _DEPTHS_MM if depth != own[day]]
        for other, depth in changed:
            tries.append(own.copy())
            tries[-1][other] = depth
            rows.append(i)
        if own[day] > 0:
            for move in _MOVES_DAYS:
                to = day + move
                if 0 <= to < own.size and own[to] == 0:
                    tries.append(own.copy())
                    tries[-1][day], tries[-1][to] = 0.0, own[day]
                    rows.append(i)
    found = np.array(tries)
    kept = np.ones(len(found), bool) if limit_mm is None else found.sum(axis=1) <= limit_mm + 1e-9
    return np.array(rows)[kept], found[kept]


def _profits(fresh: CropBatch, rows: NDArray[np.int64], plans: FloatArray, prices: Prices) -> FloatArray:
    found = np.empty(len(rows))
    for part in np.array_split(np.arange(len(rows)), max(1, math.ceil(len(rows) / _BRANCHES))):
        batch = fresh.branch(rows[part], fresh, rows[part])
        nothing = np.zeros(part.size)
        for depth in plans[part].T:
            if batch.finished:
                break
            batch.step(Decision(depth, nothing))
        found[part] = profit_usd_ha("maize", batch.harvest(), prices)
    return found


def best_doses_kg_ha(
    fields: tuple[Field, ...],
    weather: dict[str, DailyWeather],
    rule: SplitRule,
    prices: Prices,
    step_kg_ha: float = 10.0,
) -> tuple[FloatArray, FloatArray]:
    """The best three doses of each field among all on a grid up to the rule's largest, given at the rule's dates.

    Args:
        fields: of wheat.
        weather: by site.
        rule: its dates and its largest dose.
        prices: of grain and nitrogen.
        step_kg_ha: of the grid.

    Returns:
        Doses, shape (n_fields, 3), and their profit, USD/ha.
    """
    grid = np.array(list(product(np.arange(0.0, rule.max_dose_kg_ha + 1e-9, step_kg_ha), repeat=3)))
    each = max(1, _BRANCHES // len(grid))
    doses, best = np.zeros((len(fields), 3)), np.zeros(len(fields))
    for start in range(0, len(fields), each):
        part = fields[start : start + each]
        fresh = open_batch(part, weather)
        rows = np.repeat(np.arange(len(part)), len(grid))
        batch = fresh.branch(rows, fresh, rows)
        tried = np.tile(grid, (len(part), 1))
        assert isinstance(batch, WheatBatch)
        earned = _given(batch, tried, rule, prices).reshape(len(part), len(grid))
        top = np.argmax(earned, axis=1)
        doses[start : start + each], best[start : start + each] = grid[top], earned[np.arange(len(part)), top]
    return doses, best


def _given(batch: WheatBatch, doses: FloatArray, rule: SplitRule, prices: Prices) -> FloatArray:
    daily = np.maximum(batch.mean_temperature_c - GDD_BASE_C["wheat"], 0.0)
    warmth = np.concatenate([np.zeros((len(daily), 1)), np.cumsum(daily, axis=1)], axis=1)
    nothing = np.zeros(len(doses))
    for day in range(warmth.shape[1] - 1):
        if batch.finished:
            break
        dose = np.zeros(len(doses))
        for split, threshold in enumerate(rule.split_gdd):
            crossed = (warmth[:, max(day - 1, 0)] < threshold) & (warmth[:, day] >= threshold)
            due = crossed if split else np.full(len(doses), day == math.ceil(threshold))
            dose += np.where(due, doses[:, split], 0.0)
        batch.step(Decision(nothing, dose))
    return profit_usd_ha("wheat", batch.harvest(), prices)
