"""Figures that say how sure they are: paired differences over seasons, quantile bands, pinball loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

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


def paired_by_season(difference: FloatArray, season: np.ndarray, draws: int, rng: np.random.Generator) -> Paired:
    """Mean over seasons of the mean difference within each season, with a bootstrap interval over seasons.

    Args:
        difference: shape (n,), one value for each field season.
        season: shape (n,), the season of each.
        draws: bootstrap resamples of seasons.
        rng: of this bootstrap.
    """
    means = np.array([difference[season == name].mean() for name in np.unique(season)])
    picks = rng.integers(0, means.size, (draws, means.size))
    low, high = np.quantile(means[picks].mean(axis=1), [0.025, 0.975])
    error = float(means.std(ddof=1) / np.sqrt(means.size)) if means.size > 1 else 0.0
    return Paired(float(means.mean()), error, float(low), float(high), int(means.size))


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
