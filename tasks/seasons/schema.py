"""The daily table of past field seasons: what identifies a row, what the device saw, what was true."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from headland_edge.records import COLUMNS

KEYS = ("crop", "site", "season", "field_id", "soil", "practice", "sowing_date", "date", "days_after_sowing")
TRUTH_PREFIX = "truth_"
TRUTH = tuple(
    TRUTH_PREFIX + name
    for name in (
        "depletion_frac",
        "taw_mm",
        "lai",
        "soil_mineral_n_kg_ha",
        "n_supply_kg_ha",
        "biomass_t_ha",
        "yield_t_ha",
    )
)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "crop": pl.String,
    "site": pl.String,
    "season": pl.Int32,
    "field_id": pl.String,
    "soil": pl.String,
    "practice": pl.String,
    "sowing_date": pl.Date,
    "date": pl.Date,
    "days_after_sowing": pl.Int32,
    **dict.fromkeys(COLUMNS, pl.Float64),
    **dict.fromkeys(TRUTH, pl.Float64),
}

_CHECKS = {
    "rain_mm": pa.Check.ge(0),
    "et0_mm": pa.Check.ge(0),
    "irrigation_mm": pa.Check.ge(0),
    "nitrogen_kg_ha": pa.Check.ge(0),
    "truth_yield_t_ha": pa.Check.in_range(0, 30),
    "truth_depletion_frac": pa.Check.in_range(-3, 1.5),
}
DAILY = pa.DataFrameSchema(
    {
        name: pa.Column(kind, nullable=name in COLUMNS or name in TRUTH, checks=_CHECKS.get(name))
        for name, kind in SCHEMA.items()
    },
    strict=True,
    ordered=True,
    unique=["field_id", "days_after_sowing"],
)
