"""What a dose is worth: the season lived to its end once for each dose and each weather that may come.

From a visited morning every dose is given once, the rule decides from the next morning on, and profits are compared
under the same futures (common random numbers). This is the rollout of Tesauro & Galperin (1996) with the tuned rule as
base policy; Bertsekas (2020) tells why one step of it is never worse than the rule when values are exact.
"""

from __future__ import annotations

import math

import numpy as np
from headland_edge.features import GDD_BASE_C
from headland_edge.rules import Rule, SplitRule
from numpy.typing import NDArray

from tasks.advantage.worlds import Ahead
from tasks.crops.interface import CropBatch, Decision, FloatArray
from tasks.crops.wheat import WheatBatch
from tasks.params import Prices
from tasks.policies.many import irrigation_doses_mm, nitrogen_doses_kg_ha
from tasks.policies.money import profit_usd_ha

_BRANCHES = 6000
"""Lived at once: what fits a processor's cache and memory."""


def gains_usd_ha(
    batch: CropBatch,
    rows: NDArray[np.int64],
    day: int,
    rule_dose: FloatArray,
    split: NDArray[np.int64],
    doses: tuple[float, ...],
    rule: Rule,
    futures: Ahead,
    count: int,
    prices: Prices,
    rng: np.random.Generator,
) -> FloatArray:
    """Mean gain of each dose today over the rule's dose today.

    Args:
        batch: fields this morning.
        rows: shape (n,), which of them.
        day: days after sowing.
        rule_dose: shape (n,), mm or kg/ha.
        split: by field of ``batch``, number of the nitrogen split that is due today; not used for maize.
        doses: to be tried.
        rule: decides from tomorrow on, knowing the true state.
        futures: weather that may come.
        count: futures for each field.
        prices: of grain, water and nitrogen.
        rng: draws the futures.

    Returns:
        Shape (n, len(doses)), USD/ha.
    """
    tried = len(doses) + 1
    most = np.full(rows.size, np.inf)
    if not isinstance(rule, SplitRule) and rule.season_limit_mm is not None:
        most = np.maximum(0.0, rule.season_limit_mm - batch.harvest().irrigation_mm[rows])
    parts = np.array_split(np.arange(rows.size), max(1, math.ceil(rows.size * tried * count / _BRANCHES)))
    found = np.empty((rows.size, len(doses)))
    for part in parts:
        fields = [batch.fields[i] for i in rows[part].tolist()]
        drawn = futures.rows(fields, count, rng)
        shape = (part.size, drawn.shape[1], tried)
        which = np.broadcast_to(rows[part, None, None], shape).reshape(-1)
        future = np.broadcast_to(drawn[..., None], shape).reshape(-1)
        each = np.concatenate([np.tile(np.array(doses), (part.size, 1)), rule_dose[part, None]], axis=1)
        each = np.minimum(each, most[part, None])  # no dose takes more than the season may still get
        first = np.broadcast_to(each[:, None, :], shape).reshape(-1)
        branched = batch.branch(which, futures.batch, future)
        profit = _lived(branched, day, first, split[which], rule, prices).reshape(shape)
        found[part] = (profit[..., :-1] - profit[..., -1:]).mean(axis=1)
    return found


def _lived(
    batch: CropBatch,
    day: int,
    first: FloatArray,
    over: NDArray[np.int64],
    rule: Rule,
    prices: Prices,
) -> FloatArray:
    """Profit of seasons that go on with ``first`` today and with the rule from tomorrow on; ``over``: splits given."""
    nothing = np.zeros(first.size)
    warmth = _degree_days(batch)
    dose, today = first, day
    while True:
        if isinstance(rule, SplitRule):
            batch.step(Decision(nothing, dose))
        else:
            batch.step(Decision(dose, nothing))
        today += 1
        if batch.finished:
            break
        morning = batch.morning()
        if isinstance(rule, SplitRule):
            split = np.where(morning.active, _due(rule, warmth, today), -1)
            split = np.where(split > over, split, -1)  # a device's clock of warmth may be a day off
            dose = nitrogen_doses_kg_ha(rule, split, morning.n_supply_kg_ha)
        else:
            applied = batch.harvest().irrigation_mm if rule.season_limit_mm is not None else nothing
            dose = irrigation_doses_mm(rule, today, morning.depletion_frac, morning.taw_mm, applied)
    return profit_usd_ha(batch.fields[0].crop, batch.harvest(), prices)


def _degree_days(batch: CropBatch) -> FloatArray:
    """Growing degree days known on each morning of each field, as a device counts them, shape (n, days + 1)."""
    if not isinstance(batch, WheatBatch):
        return np.zeros((0, 0))
    daily = np.maximum(batch.mean_temperature_c - GDD_BASE_C["wheat"], 0.0)
    return np.concatenate([np.zeros((len(daily), 1)), np.cumsum(daily, axis=1)], axis=1)


def _due(rule: SplitRule, warmth: FloatArray, today: int) -> NDArray[np.int64]:
    """Number of the split due this morning, -1 for none; shape (n,)."""
    due = np.full(len(warmth), -1)
    for k, threshold in enumerate(rule.split_gdd[1:], start=1):
        due[(warmth[:, today - 1] < threshold) & (warmth[:, today] >= threshold)] = k
    if today == math.ceil(rule.split_gdd[0]):
        due[:] = 0
    return due
