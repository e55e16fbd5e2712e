"""The field's data as files, one for each crop and season, whatever the order in which it came.

Merging is a join in the mathematical sense: of two readings of one morning the greater is kept, reasons are united, of
two sowing dates of one field in one season the later one counts. So the same messages give the same bytes in any order,
in any portions, sent any number of times, and on top of any earlier version of the data.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandera.errors
import polars as pl
from headland_edge.records import COLUMNS

from tasks.durable import write_bytes
from tasks.field.excerpts import Excerpt
from tasks.field.schema import FIELD, SCHEMA

RECORDS, CARD = "records", "card.json"
_CHUNK_ROWS = 20_000
_MORNING = ("field_id", "days_after_sowing")


class FieldDataError(Exception):
    """A file of the field's data cannot be used; the message names it and says what to do."""


def path_of(folder: Path, crop: str, season: int) -> Path:
    """File of one crop and season below the field's folder."""
    return folder / RECORDS / crop / f"{season}.parquet"


def tables(excerpts: Iterable[Excerpt]) -> dict[tuple[str, int], pl.DataFrame]:
    """Merged rows of all excerpts by crop and season."""
    rows: dict[tuple[str, int], list[dict[str, object]]] = {}
    found: dict[tuple[str, int], pl.DataFrame] = {}
    for excerpt in excerpts:
        key = excerpt.crop, excerpt.season
        waiting = rows.setdefault(key, [])
        waiting += excerpt.rows
        if len(waiting) >= _CHUNK_ROWS:
            found[key] = merge([*([found[key]] if key in found else []), pl.DataFrame(waiting, schema=SCHEMA)])
            waiting.clear()
    for key, waiting in rows.items():
        if waiting:
            found[key] = merge([*([found[key]] if key in found else []), pl.DataFrame(waiting, schema=SCHEMA)])
    return found


def merge(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """One table of tables of one crop and season; the order of the parts and of their rows means nothing."""
    whole = pl.concat(parts).filter(pl.col("sowing_date") == pl.col("sowing_date").max().over("field_id"))
    whole = whole.with_columns(pl.col("harvest_t_ha").max().over("field_id"), pl.col("why").str.split(","))
    others = [name for name in SCHEMA if name not in (*_MORNING, "why", *COLUMNS, "release_counter")]
    merged = whole.group_by(_MORNING).agg(
        pl.col(others).first(),
        pl.col(*COLUMNS, "release_counter").max(),
        pl.col("why").explode().unique().sort(),
    )
    return merged.with_columns(pl.col("why").list.join(",")).select(list(SCHEMA)).sort(_MORNING).rechunk()


def write(folder: Path, key: tuple[str, int], table: pl.DataFrame) -> bool:
    """Bring a table into the file of its crop and season; True if the file is another than before.

    Raises:
        FieldDataError: the file that is there cannot be used.
    """
    path = path_of(folder, *key)
    before = path.read_bytes() if path.exists() else b""
    merged = merge([read(path), table]) if before else table
    content = io.BytesIO()
    FIELD.validate(merged).write_parquet(content, compression="zstd", statistics=False)
    if content.getvalue() == before:
        return False
    write_bytes(path, content.getvalue())
    return True


def read(path: Path) -> pl.DataFrame:
    """A file of the field's data, checked. Raises FieldDataError."""
    try:
        return FIELD.validate(pl.read_parquet(path))
    except (pl.exceptions.PolarsError, OSError, pandera.errors.SchemaError) as error:
        what = str(error).splitlines()[0][:200]
        raise FieldDataError(
            f"{path}: cannot be used ({what}). Delete it and sync again, or bring it back with: dvc checkout --force"
        ) from None


def files(folder: Path) -> list[Path]:
    """All files of the field's data, and nothing that a killed writer left."""
    return sorted((folder / RECORDS).glob("[!.]*/[!.]*.parquet"))


def remove_leftovers(folder: Path) -> int:
    """Delete what killed writers left beside the files; returns how many. Only who alone writes may call it."""
    left = [path for path in (*folder.glob(f".{CARD}.*"), *(folder / RECORDS).glob("*/.*")) if path.is_file()]
    for path in left:
        path.unlink()
    return len(left)
