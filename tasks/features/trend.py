"""The trend of a target over the years, as yield forecasting takes it out before it looks at weather.

Yields rise with carbon dioxide, varieties and practice. A net that saw the years before ``as_of`` would miss what they
add after it, so it learns departures: target / (1 + growth * (season - reference season)).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

GOOD_FIELDS = 0.9
"""The trend is read off each season's 90 % quantile: good fields show it, the others show the weather."""


@dataclass(frozen=True)
class Trend:
    """Growth of a crop's target, as a share of the reference season's value each year."""

    reference_season: int
    per_year_frac: float

    def factor(self, season: int) -> float:
        """What the reference season's value is multiplied by in ``season``."""
        return 1.0 + self.per_year_frac * (season - self.reference_season)

    def as_dict(self) -> dict[str, float]:
        """Plain form for JSON."""
        return asdict(self)


def theil_sen(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Median of the slopes between all pairs of points (Sen 1968): a wild season cannot tilt it."""
    i, j = np.triu_indices(x.size, k=1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i]))) if i.size else 0.0


def trend_of(rows: pl.DataFrame) -> Trend:
    """The trend of one crop's target over its training seasons.

    Args:
        rows: ``season`` and ``target``, one or more rows for each field season.
    """
    good = rows.group_by("season").agg(pl.col("target").quantile(GOOD_FIELDS)).sort("season")
    season, level = good["season"].to_numpy().astype(float), good["target"].to_numpy()
    reference = round(float(season.mean()))
    slope = theil_sen(season, level)
    middle = float(np.median(level - slope * (season - reference)))
    return Trend(reference, slope / middle if middle > 0 else 0.0)
