"""What came back from the field, as rows to learn from.

``data/field/records/<crop>/<season>.parquet`` holds excerpts that devices chose to send, each morning once. A net's
totals and windows reach back to sowing, so a field season is used up to its first missing morning. Its only label is
the harvest that was weighed, so it teaches models of ``yield_t_ha``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from headland_edge.records import COLUMNS

from tasks.field.schema import MOST_HARVEST_T_HA, SCHEMA, SITE
from tasks.seasons.schema import KEYS

FIELD = Path("data/field/records")
FIELD_SITE = SITE
"""The site of all field data; its seasons are years of the reference site."""
TARGET = "yield_t_ha"
"""The target that field data are labelled with."""
HARVEST = "harvest_t_ha"
_UNKNOWN = "unknown"
_FROM_FILE = {name: kind for name, kind in SCHEMA.items() if name not in ("why", "release_counter")}


class FieldDataError(ValueError):
    """Field data that cannot be learned from; the message names the file and what to do."""


@dataclass(frozen=True)
class FieldFile:
    """One file of field data."""

    crop: str
    season: int
    path: Path


def field_files(root: Path) -> list[FieldFile]:
    """All files below ``root`` in a fixed order; none if there is no such folder.

    Raises:
        FieldDataError: a file that is not ``<crop>/<season>.parquet``.
    """
    found = []
    for path in sorted(root.rglob("*.parquet")):
        if path.parent.parent != root or not path.stem.isdecimal():
            raise FieldDataError(f"{path}: not <crop>/<season>.parquet below {root}. Move it away.")
        found.append(FieldFile(path.parent.name, int(path.stem), path))
    return found


def field_rows(file: FieldFile) -> pl.DataFrame:
    """Mornings of every field season from sowing on, as long as none is missing.

    Returns:
        KEYS, the record columns and HARVEST (null where nothing plausible was weighed), sorted by field and day.

    Raises:
        FieldDataError: the file is damaged, lacks a column, or holds another crop, site or season.
    """
    try:
        rows = pl.read_parquet(file.path, columns=list(_FROM_FILE)).cast(_FROM_FILE)  # type: ignore[arg-type]  # as documented
    except (OSError, pl.exceptions.PolarsError) as error:
        first = str(error).splitlines()[0]
        raise FieldDataError(f"{file.path}: cannot be read ({first}). Take it from DVC: dvc checkout") from error
    foreign = rows.filter(
        (pl.col("crop") != file.crop) | (pl.col("site") != FIELD_SITE) | (pl.col("season") != file.season)
    )
    if foreign.height or rows.select("crop", "site", "season").null_count().sum_horizontal()[0]:
        raise FieldDataError(
            f"{file.path}: {max(foreign.height, 1)} rows are not {file.crop} at {FIELD_SITE} in season {file.season}"
        )
    whole = pl.col("days_after_sowing") == pl.int_range(pl.len()).over("field_id")
    harvest = pl.col(HARVEST).filter(pl.col(HARVEST).is_between(0.0, MOST_HARVEST_T_HA)).first()
    return (
        rows.drop_nulls(["field_id", "days_after_sowing", "sowing_date", "date"])
        .filter(pl.col("sowing_date") == pl.col("sowing_date").min().over("field_id"))
        .unique(["field_id", "days_after_sowing"], keep="first", maintain_order=True)
        .sort("field_id", "days_after_sowing")
        .filter(whole)
        .with_columns(harvest.over("field_id").alias(HARVEST), soil=pl.lit(_UNKNOWN), practice=pl.lit(_UNKNOWN))
        .select(*KEYS, *COLUMNS, HARVEST)
    )
