"""Calibration of a net's band, folded into its last layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from tasks.training.quantiles import Array, Stretch, crossed_coverage, find_stretch, score
from tasks.training.windows import Windows

_BATCH = 512


def answers(net: nn.Module, windows: Windows, which: np.ndarray[Any, np.dtype[np.int64]]) -> Array:
    """The net's quantiles float32 [n, 3] for the windows named, in scaled units."""
    net.eval()
    parts = []
    with torch.no_grad():
        for start in range(0, len(which), _BATCH):
            parts.append(net(torch.from_numpy(windows.gather(which[start : start + _BATCH]))).numpy())
    return np.concatenate(parts)


def calibrate(net: nn.Sequential, windows: Windows, stretch: Stretch | None = None) -> dict[str, Any]:
    """Stretch the net's band, in place, so that it holds its share of the truths of the validation seasons.

    Args:
        net: to calibrate.
        windows: to judge it by.
        stretch: factors found elsewhere; without them they are found on the validation seasons.

    Returns:
        The scores before and after, the factors, and ``coverage_crossed``: the coverage on validation seasons when
        the factors come from the other ones, the honest guess for seasons to come.
    """
    targets, scale = windows.targets[windows.validation], windows.target.scale
    raw = answers(net, windows, windows.validation)
    stretch = stretch or find_stretch(raw, targets)
    fold_into(net, stretch)
    return {
        "raw": asdict(score(raw, targets, scale)),
        "calibrated": asdict(score(answers(net, windows, windows.validation), targets, scale)),
        "stretch": asdict(stretch),
        "coverage_crossed": crossed_coverage(raw, targets, windows.group[windows.validation]),
    }


def keep_band(net: nn.Sequential, teacher: nn.Module, windows: Windows) -> None:
    """Give ``net``, in place, a band as wide as its calibrated teacher's: each half by its mean on validation."""
    own, wanted = (answers(each, windows, windows.validation) for each in (net, teacher))
    halves = [np.abs(q[:, [0, 2]] - q[:, 1:2]).mean(axis=0) for q in (wanted, own)]
    lower, upper = (halves[0] / np.maximum(halves[1], 1e-9)).tolist()
    fold_into(net, Stretch(lower, upper))


def fold_into(net: nn.Sequential, stretch: Stretch) -> None:
    """Make ``net`` give the stretched quantiles itself: the stretch is linear and so is its last layer."""
    out = net.get_submodule("out")
    assert isinstance(out, nn.Linear)
    mix = torch.tensor(
        [[stretch.lower, 1 - stretch.lower, 0.0], [0.0, 1.0, 0.0], [0.0, 1 - stretch.upper, stretch.upper]],
        dtype=torch.float64,
    )
    with torch.no_grad():
        out.weight.copy_(mix @ out.weight.double())
        out.bias.copy_(mix @ out.bias.double())
