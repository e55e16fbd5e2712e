"""The user's own weather: a CSV, plain or gzip, with the schema's own column names and units.

Header ``date,tmin_c,tmax_c,rain_mm`` and any of ``et0_mm,radiation_mj_m2,vapour_pressure_kpa,wind_m_s``; dates as
2026-05-01; an empty cell is a missing value. A column ``site`` may be there and is ignored.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl

from tasks.params_file import nearest
from tasks.sources.schema import REQUIRED, VALUES, WeatherError
from tasks.sources.text import Row, Source, delimited, make_frame, make_row, odd_row, read_lines


def read(source: str) -> Source:
    """Read the CSV at the path ``source``."""
    path = Path(source)
    _check_header(path)
    rows = [_row(path.name, number, cells) for number, cells in delimited(path, ",", ["date", *REQUIRED])]
    return Source(make_frame(rows), (path,), "the user's own file", "the user's own")


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write the columns ``date`` and VALUES of ``frame`` in the form that ``read`` reads, to the last bit."""
    frame.select("date", *VALUES).write_csv(path, null_value="")


def _check_header(path: Path) -> None:
    """An optional column that is misspelt would be modelled in silence, so unknown names are refused."""
    lines = read_lines(path)
    known = ("site", "date", *VALUES)
    for name in (cell.strip() for cell in (lines[0] if lines else "").split(",")):
        if lines and name not in known:
            raise WeatherError(f"{path}:1: unknown column {name!r}. {nearest(name, known)}")


def _row(file: str, number: int, cells: dict[str, str] | None) -> Row:
    if cells is None:
        return odd_row(file, number, "wrong number of cells")
    return make_row(file, number, lambda: date.fromisoformat(cells["date"]), cells, {}, lambda text: not text)
