"""The table of what devices have sent: a row for each morning of a field, as the device saw it."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from headland_edge.records import COLUMN_INFO, COLUMNS, CROPS, MAX_MORNINGS

FOLDER = "data/field"
SITE = "field"
WHY = ("disagrees", "novel", "random", "typical", "uncertain")
"""What is remarkable about a record; ``typical`` if nothing is, ``random`` is the honest control."""
MOST_HARVEST_T_HA = 30.0
KEYS = ("crop", "site", "season", "field_id", "days_after_sowing", "date", "sowing_date")
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "crop": pl.String,
    "site": pl.String,
    "season": pl.Int32,
    "field_id": pl.String,
    "days_after_sowing": pl.Int32,
    "date": pl.Date,
    "sowing_date": pl.Date,
    **dict.fromkeys(COLUMNS, pl.Float64),
    "why": pl.String,
    "harvest_t_ha": pl.Float64,
    "release_counter": pl.Int64,
}

_CHECKS = {
    "crop": pa.Check.isin(CROPS),
    "site": pa.Check.eq(SITE),
    "days_after_sowing": pa.Check.in_range(0, MAX_MORNINGS - 1),
    "why": pa.Check.str_matches(rf"^({'|'.join(WHY)})(,({'|'.join(WHY)}))*$"),
    "harvest_t_ha": pa.Check.in_range(0, MOST_HARVEST_T_HA),
    "release_counter": pa.Check.ge(0),
    **{name: pa.Check.in_range(column.low, column.high) for name, column in COLUMN_INFO.items()},
}
FIELD = pa.DataFrameSchema(
    {
        name: pa.Column(kind, nullable=name not in (*KEYS, "why"), checks=_CHECKS.get(name))
        for name, kind in SCHEMA.items()
    },
    strict=True,
    ordered=True,
    unique=["field_id", "days_after_sowing"],
)
