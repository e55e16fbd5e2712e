"""Harvests of US counties with their weather, read from the public CY-Bench sample, as departures from what is usual.

A row is a county and a year: yield, the yields of the five years before, and figures of the season's weather by phase.
What a method may know of a row is made here, from years before the one it is asked about and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

FOLDER = "cybench_us_maize"
FILES = "grain_maize_US_*.csv"
PAST = tuple(f"yield-{years}" for years in range(1, 6))
USUAL_YEARS = 2.0
"""The state's mean weather counts in a county's as so many years of its own."""
SPREAD_YEARS = 4.0
"""The same for the spread of the weather, which needs more years to be known."""
LIMIT = 5.0
"""Inputs end here, in standard deviations."""
Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Index = NDArray[np.int64]


class CountyDataError(Exception):
    """No usable harvests; the message names the place and says what to do."""


@dataclass(frozen=True, eq=False)
class Counties:
    """All rows, by year and county.

    Args:
        county: [n], number of the county.
        state: [n], number of its state.
        year: [n], of the harvest.
        weather: [n, figures], of the season.
        past_t_ha: [n, 5], the harvests before, the last one first.
        trend_t_ha: [n], a line through them, one year on.
        yield_t_ha: [n].
    """

    county: Index
    state: Index
    year: Index
    weather: Array
    past_t_ha: Array
    trend_t_ha: Array
    yield_t_ha: Array

    @property
    def usual_t_ha(self) -> Array:
        """[n], mean of the five harvests before."""
        mean: Array = self.past_t_ha.mean(axis=1)
        return mean

    @property
    def residual_t_ha(self) -> Array:
        """[n], what the year added to the usual: the target."""
        return self.yield_t_ha - self.usual_t_ha


def read_counties(data: Path) -> Counties:
    """All rows under ``data``, the folder of external data.

    Raises:
        CountyDataError: the folder, its files or a column is missing, a value is no number, or a row comes twice.
    """
    files = sorted((data / FOLDER).glob(FILES))
    if not files:
        where = f"{data / FOLDER / FILES}: no such file"
        raise CountyDataError(f"{where}. Set HEADLAND_EXTERNAL_DATA to the folder that holds {FOLDER}.")
    try:
        table = pl.concat([pl.read_csv(file) for file in files], how="vertical_relaxed").sort("year", "adm_id")
        weather = table.select(pl.col("^(avg|Z).*$").cast(pl.Float64))
        numbers = {
            "past_t_ha": table.select(pl.col(PAST).cast(pl.Float64)).to_numpy(),
            "trend_t_ha": table["yield_trend"].cast(pl.Float64).to_numpy(),
            "yield_t_ha": table["yield"].cast(pl.Float64).to_numpy(),
        }
        county = table["adm_id"]
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CountyDataError(f"{data / FOLDER}: {error}. Fetch the files again, see its SOURCE.txt.") from None
    numbers["weather"] = weather.to_numpy()
    bad = [name for name, values in numbers.items() if not np.isfinite(values).all()]
    if bad or not weather.width:
        raise CountyDataError(f"{data / FOLDER}: {', '.join(bad) or 'weather'} missing. Fetch the files again.")
    if table.select("adm_id", "year").is_duplicated().any():
        raise CountyDataError(f"{data / FOLDER}: a county's year stands twice. Leave one file of each span.")
    return Counties(
        county=_numbered(county), state=_numbered(county.str.slice(0, 2)), year=table["year"].to_numpy(), **numbers
    )


def until(rows: Counties, last: int) -> Counties:
    """The rows of no later year than ``last``."""
    here = rows.year <= last
    return Counties(**{field.name: getattr(rows, field.name)[here] for field in fields(rows)})


def _numbered(names: pl.Series) -> Index:
    return names.rank("dense").cast(pl.Int64).to_numpy() - 1


def departures(rows: Counties, known: Flags) -> Array:
    """Each row's weather less what is usual in its county, in spreads of it, [n, figures].

    What is usual comes from ``known`` rows, and for one of them from the others, so that a row to learn from stands to
    it as a row of a year to come does. A county with few years borrows from its state.

    Args:
        rows: all.
        known: [n], of years before the one asked about.
    """
    state_mean = _means(rows.weather, rows.state, known)
    own = np.where(known[:, None], rows.weather, 0.0)
    total = _sums(own, rows.county)[rows.county] - own
    years = (np.bincount(rows.county, weights=known)[rows.county] - known)[:, None]
    departed = rows.weather - (total + USUAL_YEARS * state_mean) / (years + USUAL_YEARS)
    square = np.where(known[:, None], departed**2, 0.0)
    counted = np.bincount(rows.county, weights=known)[rows.county][:, None]
    everywhere = square.sum(axis=0) / known.sum()
    spread = (_sums(square, rows.county)[rows.county] + SPREAD_YEARS * everywhere) / (counted + SPREAD_YEARS)
    scaled: Array = departed / np.sqrt(np.maximum(spread, 1e-12))
    return scaled


def inputs(rows: Counties, known: Flags) -> NDArray[np.float32]:
    """What every method is given of every row, standardised on ``known`` ones, [n, inputs].

    The season's departures, and mean and spread of the five harvests before: how much a county's harvest moves, because
    it is dry or watered.

    Args:
        rows: all.
        known: [n], of years before the one asked about.
    """
    history = np.stack([rows.usual_t_ha, rows.past_t_ha.std(axis=1)], axis=1)
    plain = np.hstack([departures(rows, known), history])
    spread = plain[known].std(axis=0)
    scaled = (plain - plain[known].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    limited: NDArray[np.float32] = np.clip(scaled, -LIMIT, LIMIT).astype(np.float32)
    return limited


def _sums(values: Array, group: Index) -> Array:
    """Sums of [n, k] values by group, [groups, k]."""
    sums = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return sums


def _means(values: Array, group: Index, known: Flags) -> Array:
    """Each row's group's mean over known rows, [n, k]; the mean of all where a group has none."""
    sums = _sums(np.where(known[:, None], values, 0.0), group)
    count = np.bincount(group, weights=known)[:, None]
    means = np.where(count > 0, sums / np.maximum(count, 1), values[known].mean(axis=0))
    return means[group]
