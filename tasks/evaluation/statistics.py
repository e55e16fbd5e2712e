"""Figures that say how sure they are: paired differences over seasons, quantile bands, pinball loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from tasks.crops.interface import FloatArray


@dataclass(frozen=True)
class Paired:
    """A mean difference over seasons with its uncertainty; seasons, not fields, are the independent draws."""

    mean: float
    standard_error: float
    low_95: float
    high_95: float
    seasons: int

    def as_dict(self) -> dict[str, float]:
        """The plain form for JSON."""
        return asdict(self)


def paired_by_season(difference: FloatArray, season: NDArray[Any]) -> Paired:
    """Mean over seasons of the mean difference within each season, with Student's 95 % interval over seasons.

    Ten seasons are few: a percentile bootstrap over them is too narrow, Student's t with seasons - 1 degrees of
    freedom is not. One season has no interval: its bounds are the mean and ``seasons`` says why.

    Args:
        difference: shape (n,), one value for each field season.
        season: shape (n,), the season of each.
    """
    means = np.array([difference[season == name].mean() for name in np.unique(season)])
    mean, count = float(means.mean()), int(means.size)
    if count < 2:
        return Paired(mean, 0.0, mean, mean, count)
    error = float(means.std(ddof=1) / np.sqrt(count))
    reach = float(student_t.ppf(0.975, count - 1)) * error
    return Paired(mean, error, mean - reach, mean + reach, count)


def pinball(truth: FloatArray, quantiles: FloatArray, levels: tuple[float, ...] = (0.1, 0.5, 0.9)) -> float:
    """Mean pinball loss over rows and levels, in the truth's unit (Koenker and Bassett 1978).

    Args:
        truth: shape (n,).
        quantiles: shape (n, len(levels)).
        levels: of the quantiles.
    """
    error = truth[:, None] - quantiles
    level = np.asarray(levels)
    return float(np.maximum(level * error, (level - 1.0) * error).mean())


def band(truth: FloatArray, quantiles: FloatArray) -> dict[str, float]:
    """Share of truths inside the outer quantiles, and the band's mean width in the truth's unit."""
    inside = (truth >= quantiles[:, 0]) & (truth <= quantiles[:, -1])
    return {"coverage_frac": float(inside.mean()), "width": float((quantiles[:, -1] - quantiles[:, 0]).mean())}
