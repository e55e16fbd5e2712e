"""Stage: features of every past season and of what came back from the field, by the device's own code.

One season at a time. Reads the record columns only; what is true of a field never passes through here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from headland_edge.features import FEATURES, clean, derive
from headland_edge.records import COLUMNS, Records

from tasks.durable import replacing, replacing_dir
from tasks.features.field import FIELD, FIELD_SITE, field_files, field_rows
from tasks.progress import track
from tasks.seasons.generate import SEASONS
from tasks.seasons.schema import KEYS
from tasks.stage_main import end_of_stage

PARAMS: tuple[str, ...] = ()
FEATURES_ROOT = Path("data/features")
NAMES = tuple(feature.name for feature in FEATURES)


class SeasonFileError(Exception):
    """A season file cannot be read; the message names it and says what to do."""


def read_columns(file: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read only ``columns`` of a season or feature file.

    Raises:
        SeasonFileError: the file is truncated, damaged, or lacks a column.
    """
    try:
        return pl.read_parquet(file, columns=list(columns))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise SeasonFileError(
            f"{file}: cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Delete this file and run `dvc repro` to make it again."
        ) from error


def records_of(rows: pl.DataFrame) -> Records:
    """The records of one field season as its device holds them; ``rows`` in the order of days after sowing.

    Raises:
        ValueError: a morning is missing: records are one row a day from sowing on.
    """
    days = rows["days_after_sowing"].to_numpy()
    if not np.array_equal(days, np.arange(days.size)):
        raise ValueError(f"{rows['field_id'][0]}: mornings are not consecutive from sowing on")
    values = rows.select(pl.col(name).fill_null(float("nan")) for name in COLUMNS).to_numpy()
    return Records(crop=rows["crop"][0], sowing_date=rows["sowing_date"][0], values=np.ascontiguousarray(values))


def records_and_harvests(rows: pl.DataFrame) -> list[tuple[Records, float]]:
    """Each field's records and what it really gave, t/ha; ``rows`` of simulated fields, in any order."""
    ordered = rows.sort("field_id", "days_after_sowing").group_by("field_id", maintain_order=True)
    return [(records_of(field), float(field["truth_yield_t_ha"][0])) for _, field in ordered]


def season_features(rows: pl.DataFrame) -> pl.DataFrame:
    """Derive the features of every field in one season.

    Args:
        rows: KEYS and record columns, any order.

    Returns:
        KEYS and one Float32 column for each feature, sorted by field and day.
    """
    parts = []
    for _, field in rows.sort("field_id", "days_after_sowing").group_by("field_id", maintain_order=True):
        cleaned, _ = clean(records_of(field))
        derived = pl.from_numpy(derive(cleaned), schema=dict.fromkeys(NAMES, pl.Float32))
        # A record column and a feature may share a name: the features are prefixed.
        parts.append(field.select(KEYS).hstack(derived.rename({name: f"x_{name}" for name in NAMES})))
    return pl.concat(parts)


def build(seasons: Path = SEASONS, target: Path = FEATURES_ROOT, field: Path = FIELD) -> int:
    """Derive features of all season files below ``seasons`` into the same layout below ``target``.

    Those of field data below ``field`` go to the site ``FIELD_SITE``. Returns how many files were made.
    """
    files = sorted(seasons.rglob("*.parquet"))
    returned = field_files(field)
    with replacing_dir(target) as aside:
        for file in track(files, total=len(files), label="features"):
            rows = read_columns(file, (*KEYS, *COLUMNS))
            _write(season_features(rows), aside / file.relative_to(seasons))
        for each in returned:
            rows = field_rows(each)
            if rows.height:
                _write(season_features(rows), aside / each.crop / FIELD_SITE / f"{each.season}.parquet")
    return len(files) + len(returned)


def _write(features: pl.DataFrame, path: Path) -> None:
    table: pa.Table = features.to_arrow()
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def main() -> None:
    """Run the stage in the current folder."""
    print(f"features: {build()} season files, {len(NAMES)} features each")


if __name__ == "__main__":
    end_of_stage(main)
