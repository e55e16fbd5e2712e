"""Climate files in AquaCrop's text form, such as those that ship in the package ``aquacrop``."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from tasks.sources.text import Row, Source, delimited, make_frame, make_row, odd_row, package_file

_COLUMNS = {"tmin_c": "Tmin(C)", "tmax_c": "Tmax(C)", "rain_mm": "Prcp(mm)", "et0_mm": "Et0(mm)"}


def read(source: str) -> Source:
    """Read ``source``: a file name inside the package, or a path with a slash in it."""
    path = Path(source) if "/" in source else package_file("aquacrop", "data", source)
    rows = [
        _row(path.name, number, cells)
        for number, cells in delimited(path, None, ["Day", "Month", "Year", *_COLUMNS.values()])
    ]
    return Source(
        make_frame(rows),
        (path,),
        "station observations as shipped in the Python package aquacrop; ET0 as given there",
        "part of the package aquacrop (Apache-2.0)",
    )


def _row(file: str, number: int, cells: dict[str, str] | None) -> Row:
    if cells is None:
        return odd_row(file, number, "wrong number of cells")
    values = {name: cells[column] for name, column in _COLUMNS.items()}
    return make_row(file, number, lambda: _day(cells), values, {}, lambda text: text.startswith("-999"))


def _day(cells: dict[str, str]) -> date:
    return date(int(cells["Year"]), int(cells["Month"]), int(cells["Day"]))
