"""Methods that say what a county will harvest: the project's quantile net, and peers on the same rows and inputs.

Each learns from the rows known before the year asked about, and what it learns is the residual on the county's 5-year
mean, except the two that read the harvests before and learn nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.county_rows import Array, Counties, Flags, Index
from tasks.training.calibrate import answers
from tasks.training.crossfit import unseen_answers
from tasks.training.fit import Plan, fit
from tasks.training.nets import Architecture, build, start_at_quantiles
from tasks.training.quantiles import find_stretch
from tasks.training.trainer import ONE_PROCESS
from tasks.training.windows import Target, Windows

WIDTHS, HEAD = (32,), 16
BATCH = 128
JUDGED = 512
"""Known rows by which an epoch is judged; they are learned from, too, since no year can be spared."""
RIDGE = 100.0


@dataclass(frozen=True)
class Effort:
    """How much is trained.

    Args:
        epochs: of each net.
        seeds: nets whose answers are averaged.
        fold_seeds: the same for nets trained without a year.
        learning_rate: peak.
        weight_decay: of AdamW.
    """

    epochs: int = 3
    seeds: int = 25
    fold_seeds: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4


@dataclass(frozen=True, eq=False)
class Case:
    """A question: what is harvested on ``asked`` rows, knowing the ``known`` ones.

    Args:
        rows: all.
        inputs: float32 [n, inputs], made from known rows.
        known: [n], years before the one asked about.
        asked: [m], row numbers.
    """

    rows: Counties
    inputs: NDArray[np.float32]
    known: Flags
    asked: Index

    @property
    def usual_t_ha(self) -> Array:
        """[m], 5-year mean of the asked rows."""
        return self.rows.usual_t_ha[self.asked]


Method = Callable[[Case], Array]
"""Answers in t/ha, [m]."""


def five_year_mean(case: Case) -> Array:
    """As in the five years before."""
    return case.usual_t_ha


def linear_trend(case: Case) -> Array:
    """As the line through the five years before goes on."""
    return case.rows.trend_t_ha[case.asked]


def ridge(case: Case) -> Array:
    """Ridge regression of the residual."""
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=RIDGE).fit(case.inputs[case.known], case.rows.residual_t_ha[case.known])
    return case.usual_t_ha + np.asarray(fitted.predict(case.inputs[case.asked]), dtype=np.float64)


def gradient_boosting(case: Case) -> Array:
    """scikit-learn's histogram gradient boosting of the residual."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        max_iter=300, learning_rate=0.05, max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=1.0, random_state=0
    )
    fitted = model.fit(case.inputs[case.known], case.rows.residual_t_ha[case.known])
    return case.usual_t_ha + np.asarray(fitted.predict(case.inputs[case.asked]), dtype=np.float64)


def mean_of(quantiles: Array) -> Array:
    """[m, 3] quantiles -> [m], the mean they tell of: 0.3, 0.4 and 0.3 of them (Swanson's rule, Hurst et al. 2000).

    A square error is least for the mean, which is what ridge and boosting give; yields lean to bad years.
    """
    mean: Array = quantiles @ np.array([0.3, 0.4, 0.3])
    return mean


PEERS: dict[str, Method] = {
    "five_year_mean": five_year_mean,
    "linear_trend": linear_trend,
    "ridge": ridge,
    "gradient_boosting": gradient_boosting,
}


def net_quantiles(case: Case, effort: Effort) -> tuple[Array, Array]:
    """The net's 10, 50 and 90 % quantiles, t/ha, [m, 3]: as it gives them, and stretched on years left out.

    The nets are ``tasks.training``'s: a window is one morning with all inputs as channels. The stretch is found as
    ``tasks.training.crossfit`` does, each known year being a fold of its own.
    """
    windows, known = windows_of(case), np.flatnonzero(case.known)
    scale, usual = windows.target.scale, case.usual_t_ha[:, None]
    raw = np.mean([_answers_of_one(windows, case.asked, plan) for plan in _plans(effort.seeds, known, effort)], axis=0)
    raw = np.sort(raw, axis=1)
    years = np.unique(windows.group[known]).size
    said = [
        unseen_answers(windows, architecture_of(windows), plan, years)
        for plan in _plans(effort.fold_seeds, known, effort)
    ]
    unseen = np.mean([each.quantiles for each in said], axis=0)
    stretch = find_stretch(unseen, windows.targets[said[0].which])
    return usual + scale * raw, usual + scale * np.sort(stretch.apply(raw), axis=1)


def windows_of(case: Case) -> Windows:
    """The rows as windows of one morning for ``tasks.training``; nothing of an asked row's harvest is in them."""
    known = np.flatnonzero(case.known)
    residual = np.where(case.known, case.rows.residual_t_ha, 0.0)
    target = Target("yield_residual_t_ha", "t/ha", 0.0, float(residual[known].std()))
    return Windows(
        folder=Path(),
        channels=tuple(f"input_{i}" for i in range(case.inputs.shape[1])),
        target=target,
        features=case.inputs,
        index=np.arange(len(case.inputs)),
        targets=(residual / target.scale).astype(np.float32),
        training=known,
        validation=known[:0],
        group=case.rows.year.astype(np.int32),
        window_days=1,
    )


def architecture_of(windows: Windows) -> Architecture:
    """Of every net here."""
    return Architecture(len(windows.channels), windows.window_days, WIDTHS, HEAD, kernel=1)


def _plans(seeds: int, known: Index, effort: Effort) -> list[Plan]:
    """One for each seed; they differ by more than the fold that ``crossfit`` adds."""
    per_epoch = max(1, known.size // BATCH) * BATCH
    return [
        Plan(effort.epochs, per_epoch, BATCH, effort.learning_rate, effort.weight_decay, effort.epochs, 100 * seed)
        for seed in range(seeds)
    ]


def _answers_of_one(windows: Windows, asked: Index, plan: Plan) -> Array:
    """Scaled quantiles [m, 3] of one net trained on all known rows."""
    rng = np.random.default_rng(plan.seed)
    judged = np.sort(rng.permutation(windows.training)[:JUDGED])
    part = replace(windows, validation=judged)
    torch.manual_seed(plan.seed)
    net = build(architecture_of(windows))
    start_at_quantiles(net, torch.from_numpy(windows.targets[windows.training]))
    fit(net, part, plan, ONE_PROCESS)
    return answers(net, part, asked).astype(np.float64)
