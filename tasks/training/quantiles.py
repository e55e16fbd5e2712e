"""Judging and calibrating quantiles on seasons the net did not learn from (NumPy only).

Calibration stretches the two halves of the band around the median until each holds its share of the truths, the
conformal way (Romano, Patterson & Candès 2019, scaled scores): q10' = q50 - lower * (q50 - q10), q90' likewise.
Both are linear in the outputs, so they fold into the weights of the last layer and cost nothing on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
LEVELS = np.array([0.1, 0.5, 0.9])
_STRETCH = (0.2, 5.0)


@dataclass(frozen=True)
class Score:
    """How good quantiles are, in the target's unit.

    Args:
        pinball: mean pinball loss over the three quantiles, the metric of every model.
        mae: mean absolute error of the median.
        coverage: share of truths inside the band.
        width: mean width of the band.
    """

    pinball: float
    mae: float
    coverage: float
    width: float


@dataclass(frozen=True)
class Stretch:
    """Factors on the two halves of the band; 1 leaves a half as it is."""

    lower: float
    upper: float

    def apply(self, quantiles: Array) -> Array:
        """[n, 3] -> the stretched [n, 3]."""
        median = quantiles[:, 1]
        low = median - self.lower * (median - quantiles[:, 0])
        high = median + self.upper * (quantiles[:, 2] - median)
        return np.stack([low, median, high], axis=1)


def score(quantiles: Array, targets: Array, scale: float) -> Score:
    """Judge scaled [n, 3] quantiles, sorted as a device sorts them, against scaled [n] targets."""
    ordered = np.sort(quantiles.astype(np.float64), axis=1)
    truth = targets.astype(np.float64)
    error = truth[:, None] - ordered
    inside = (truth >= ordered[:, 0]) & (truth <= ordered[:, 2])
    return Score(
        pinball=float(np.maximum(LEVELS * error, (LEVELS - 1) * error).mean() * scale),
        mae=float(np.abs(error[:, 1]).mean() * scale),
        coverage=float(inside.mean()),
        width=float((ordered[:, 2] - ordered[:, 0]).mean() * scale),
    )


def find_stretch(quantiles: Array, targets: Array) -> Stretch:
    """Factors with which a tenth of the truths lies below the band and a tenth above it.

    Args:
        quantiles: [n, 3].
        targets: [n].
    """
    median = quantiles[:, 1]
    return Stretch(
        lower=_factor(median - targets, median - quantiles[:, 0]),
        upper=_factor(targets - median, quantiles[:, 2] - median),
    )


def _factor(beyond: Array, half_width: Array) -> float:
    """The factor on ``half_width`` that ``beyond`` exceeds in one case of ten, within what is sane."""
    usable = half_width > 1e-6
    if usable.sum() < 10:
        return 1.0
    ratios = beyond[usable].astype(np.float64) / half_width[usable]
    rank = min(1.0, 0.9 * (1 + 1 / ratios.size))
    return float(np.clip(np.quantile(ratios, rank, method="higher"), *_STRETCH))


def crossed_coverage(quantiles: Array, targets: Array, seasons: npt.NDArray[np.integer]) -> float | None:
    """Coverage with factors found on the other seasons: what calibration is worth on seasons it has not seen.

    Returns:
        None with fewer than two seasons.
    """
    names = np.unique(seasons)
    if names.size < 2:
        return None
    inside = np.zeros(len(targets), dtype=bool)
    for name in names:
        here = seasons == name
        band = np.sort(find_stretch(quantiles[~here], targets[~here]).apply(quantiles[here]), axis=1)
        inside[here] = (targets[here] >= band[:, 0]) & (targets[here] <= band[:, 2])
    return float(inside.mean())
