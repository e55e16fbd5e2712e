"""How far off a net is on seasons it never saw, learned from all seasons: cross-conformal calibration.

A net that saw few years is surer of itself than the next year allows, and the handful of validation seasons, which
also chose the best epoch, hide it. So the seasons are cut into folds, a net is trained without each fold, and the
band's factors come from what those nets say of the seasons they did not see (Vovk 2015, cross-conformal predictors).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray

from tasks.training.calibrate import answers
from tasks.training.fit import Plan, fit
from tasks.training.nets import Architecture, build, start_at_quantiles
from tasks.training.quantiles import Array, Stretch, find_stretch
from tasks.training.trainer import ONE_PROCESS
from tasks.training.windows import Windows

_JUDGED_WINDOWS = 1024
Rows = npt.NDArray[np.int64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Unseen:
    """What nets say of windows of seasons they did not see.

    Args:
        which: int64 [n], the windows, one fold after the other.
        quantiles: [n, 3], sorted as a device sorts them, in scaled units.
    """

    which: Index
    quantiles: Array


def cross_stretch(windows: Windows, architecture: Architecture, plan: Plan, folds: int) -> dict[str, Stretch]:
    """Train a net without each fold of seasons and find, for each crop, the factors that fit what they say of it.

    Args:
        windows: of training and validation seasons together.
        architecture: of every net.
        plan: of every net.
        folds: at least 2.

    Returns:
        The factors by crop.
    """
    said = unseen_answers(windows, architecture, plan, folds)
    wheat = windows.features[windows.index[said.which], windows.channels.index("is_wheat")] > 0.5
    return {
        crop: find_stretch(said.quantiles[here], windows.targets[said.which[here]])
        for crop, here in (("maize", ~wheat), ("wheat", wheat))
        if here.any()
    }


def unseen_answers(windows: Windows, architecture: Architecture, plan: Plan, folds: int) -> Unseen:
    """Train a net without each fold of seasons and ask it about that fold; arguments as of ``cross_stretch``."""
    known = np.sort(np.concatenate([windows.training, windows.validation]))
    season = windows.group[known]
    names = np.unique(season)
    said, asked = [], []
    for fold in range(folds):
        out = np.isin(season, names[fold::folds])
        unseen, seen = known[out], known[~out]
        said.append(_answers_without(windows, seen, unseen, architecture, plan, fold))
        asked.append(unseen)
    return Unseen(np.concatenate(asked), np.sort(np.concatenate(said), axis=1))


def _answers_without(
    windows: Windows, seen: Index, unseen: Index, architecture: Architecture, plan: Plan, fold: int
) -> Array:
    """Quantiles of ``unseen`` windows by a net trained on ``seen`` ones; the unseen choose no epoch either."""
    rng = np.random.default_rng([plan.seed, fold])
    judged = np.sort(rng.permutation(seen)[:_JUDGED_WINDOWS])
    part = replace(windows, training=seen, validation=judged)
    torch.manual_seed(plan.seed + fold)
    net = build(architecture)
    start_at_quantiles(net, torch.from_numpy(windows.targets[seen]))
    fit(net, part, replace(plan, label=f"{plan.label}, fold {fold + 1}" if plan.label else ""), ONE_PROCESS)
    return answers(net, part, unseen)
