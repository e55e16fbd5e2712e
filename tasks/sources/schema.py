"""The one table of daily weather: its columns with units in the names, its limits, and the check of every row.

A row that cannot be true is set aside with its reason, never mended: rows that share a date but disagree are all set
aside, because nothing says which is right. Days without a row are gaps; they are found and listed, never filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

import pandera.polars as pa
import polars as pl

LIMITS: dict[str, tuple[float, float]] = {
    "tmin_c": (-70.0, 45.0),
    "tmax_c": (-60.0, 60.0),
    "rain_mm": (0.0, 1850.0),
    "et0_mm": (0.0, 25.0),
    "radiation_mj_m2": (0.0, 45.0),
    "vapour_pressure_kpa": (0.0, 6.0),
    "wind_m_s": (0.0, 45.0),
}
"""Daily totals and means outside these were never measured on Earth, or not where anything is farmed."""

VALUES = tuple(LIMITS)
REQUIRED = ("tmin_c", "tmax_c", "rain_mm")
"""What a source must observe; the other columns can be modelled from these."""
FIRST_DATE, LAST_DATE = date(1850, 1, 1), date(2150, 12, 31)

RAW_SCHEMA: dict[str, type[pl.DataType]] = {
    "file": pl.String,
    "row": pl.Int64,
    "date": pl.Date,
    "fault": pl.String,
    **dict.fromkeys(VALUES, pl.Float64),
}
"""What readers give: file and row (line, from 1) of origin, the reader's own complaint if any, null = not observed."""

REJECTED_COLUMNS = ("file", "row", "date", "reason", *VALUES)

TABLE = pa.DataFrameSchema(
    {
        "site": pa.Column(pl.String),
        "date": pa.Column(pl.Date, unique=True),
        **{name: pa.Column(pl.Float64, pa.Check.in_range(*limits)) for name, limits in LIMITS.items()},
    },
    checks=[
        pa.Check(lambda data: data.lazyframe.select(pl.col("tmin_c") <= pl.col("tmax_c")), error="tmin_c above tmax_c"),
        pa.Check(lambda data: data.lazyframe.select(pl.col("date").is_sorted()), error="dates out of order"),
        pa.Check(lambda data: data.lazyframe.select(pl.col("site").n_unique() == 1), error="more than one site"),
    ],
    strict=True,
    ordered=True,
)
"""The table that ``data/weather/<site>.parquet`` holds: one site, ascending dates, nothing missing in a row."""


class WeatherError(Exception):
    """Weather that cannot be used; the message names file, row, what is wrong and what to do."""


class Checked(NamedTuple):
    """Rows that can be true, and the others with their reason."""

    good: pl.DataFrame
    rejected: pl.DataFrame


def check(frame: pl.DataFrame, origin: str) -> Checked:
    """Tell rows that can be true from rows that cannot.

    Args:
        frame: columns of RAW_SCHEMA, any order of rows.
        origin: what to call the source in an error.

    Returns:
        ``good`` with the columns of ``frame`` sorted by date, one row a date; ``rejected`` with REJECTED_COLUMNS,
        sorted by file and row.

    Raises:
        WeatherError: no row is good.
    """
    marked = frame.with_columns(reason=pl.coalesce(_reasons()))
    alone = marked.filter(pl.col("reason").is_null()).with_columns(reason=_duplicates())
    judged = pl.concat([marked.filter(pl.col("reason").is_not_null()), alone])
    good = judged.filter(pl.col("reason").is_null()).drop("reason").sort("date")
    rejected = judged.filter(pl.col("reason").is_not_null()).select(REJECTED_COLUMNS).sort("file", "row")
    if good.is_empty():
        raise WeatherError(_nothing_good(rejected, origin))
    return Checked(good, rejected)


def _reasons() -> list[pl.Expr]:
    """One expression for each fault a row can have by itself, most telling first; null where it has not."""
    rules: list[tuple[str, pl.Expr]] = [
        ("no date", pl.col("date").is_null()),
        (f"date outside {FIRST_DATE} to {LAST_DATE}", ~pl.col("date").is_between(FIRST_DATE, LAST_DATE)),
    ]
    rules += [(f"{name} missing", pl.col(name).is_null()) for name in REQUIRED]
    rules += [(f"{name} not finite", ~pl.col(name).is_finite()) for name in VALUES]
    rules.append(("tmin_c above tmax_c", pl.col("tmin_c") > pl.col("tmax_c")))
    for name, (low, high) in LIMITS.items():
        rules.append((f"{name} below {low:g}", pl.col(name) < low))
        rules.append((f"{name} above {high:g}", pl.col(name) > high))
    return [pl.col("fault"), *(pl.when(rule).then(pl.lit(reason)) for reason, rule in rules)]


def _duplicates() -> pl.Expr:
    """The first of equal rows of a date stays; where rows of a date disagree, none does."""
    differ = pl.any_horizontal(pl.col(name).n_unique().over("date") > 1 for name in VALUES)
    repeat = pl.int_range(pl.len()).over("date") > 0
    return (
        pl.when(differ)
        .then(pl.lit("duplicate day, values differ"))
        .when(repeat)
        .then(pl.lit("duplicate day"))
        .otherwise(None)
    )


def _nothing_good(rejected: pl.DataFrame, origin: str) -> str:
    if rejected.is_empty():
        return f"{origin}: holds no rows. Check that the whole file was copied."
    first = rejected.row(0, named=True)
    return (
        f"{first['file']}:{first['row']}: {first['reason']}; none of the {rejected.height} rows of {origin} can be "
        "used. Check that its units and its columns are what the reader expects."
    )


def gaps(dates: Sequence[date]) -> list[tuple[date, date]]:
    """Days without a row between the first and the last of ascending ``dates``, as (first, last) of each stretch."""
    day = timedelta(days=1)
    return [(a + day, b - day) for a, b in pairwise(dates) if b - a > day]
