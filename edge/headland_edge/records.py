"""Records: what a device in the field knows each morning, as an array and as CSV.

Row ``k`` is the morning ``k`` days after sowing. Weather, irrigation and nitrogen are yesterday's totals; the
other columns are this morning's readings. NaN means that nothing was measured. A morning without any record
is a row of NaN, so row numbers are always days after sowing.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headland_edge.durable import write_bytes

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One measured quantity and the range outside which a reading is a sensor fault."""

    name: str
    unit: str
    low: float
    high: float


# The ranges are wide on purpose: they catch faults and wrong units, not rare weather.
_COLUMNS = (
    Column("rain_mm", "mm", 0.0, 500.0),
    Column("et0_mm", "mm", 0.0, 20.0),
    Column("tmin_c", "C", -60.0, 45.0),
    Column("tmax_c", "C", -50.0, 60.0),
    Column("irrigation_mm", "mm", 0.0, 300.0),
    Column("nitrogen_kg_ha", "kg/ha", 0.0, 400.0),
    # Below 0: wetter than field capacity. Above 1: drier than wilting point, or sensor drift.
    Column("depletion_frac", "1", -1.0, 1.5),
    Column("taw_mm", "mm", 1.0, 800.0),
    Column("soil_mineral_n_kg_ha", "kg/ha", 0.0, 600.0),
    Column("lai", "1", 0.0, 15.0),
)
COLUMN_INFO: dict[str, Column] = {column.name: column for column in _COLUMNS}
COLUMNS: tuple[str, ...] = tuple(COLUMN_INFO)
CROPS: tuple[str, ...] = ("maize", "wheat")
MAX_MORNINGS = 400
"""Longest season a CSV file may hold; a longer one has a mistaken date."""

_KEYS = ("crop", "sowing_date", "date")
_POSITION = {name: index for index, name in enumerate(COLUMNS)}


class RecordError(ValueError):
    """Records cannot be used; the message names file, line, column and what to do."""


@dataclass(frozen=True, eq=False)
class Records:
    """The history of one field since sowing.

    Raises:
        RecordError: unknown crop, or values that are not float64 of shape (n_mornings >= 1, len(COLUMNS)).
    """

    crop: str
    sowing_date: date
    values: FloatArray
    """Shape (n_mornings, len(COLUMNS)), columns as in COLUMNS, NaN where nothing was measured."""

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise RecordError(f"crop {self.crop!r} is not known; use one of {', '.join(CROPS)}")
        shape = self.values.shape
        if self.values.dtype != np.float64 or len(shape) != 2 or shape[0] < 1 or shape[1] != len(COLUMNS):
            raise RecordError(
                f"record values must be float64 of shape (mornings >= 1, {len(COLUMNS)}), "
                f"got {self.values.dtype} of shape {shape}"
            )

    @property
    def n_mornings(self) -> int:
        """Number of mornings, the sowing date's included."""
        return int(self.values.shape[0])

    @property
    def days_after_sowing(self) -> int:
        """Days after sowing of the last morning."""
        return self.n_mornings - 1

    @property
    def last_date(self) -> date:
        """The morning these records end with."""
        return self.date_of(self.n_mornings - 1)

    def date_of(self, morning: int) -> date:
        """Calendar date of row ``morning``."""
        return self.sowing_date + timedelta(days=morning)

    def column(self, name: str) -> FloatArray:
        """View of one column, shape (n_mornings,). Raises KeyError for a name not in COLUMNS."""
        return self.values[:, _POSITION[name]]

    def until(self, morning: int) -> Records:
        """The same records as they were known on row ``morning``."""
        return Records(self.crop, self.sowing_date, self.values[: morning + 1])


def write_csv(path: Path, records: Records) -> None:
    """Write ``records`` to ``path``, whole or not at all; ``read_csv`` gives back the same values bit for bit."""
    write_bytes(path, to_csv(records).encode())


def to_csv(records: Records) -> str:
    """``records`` as CSV text: one line for each morning, empty cells for what was not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_KEYS, *COLUMNS))
    for morning, row in enumerate(records.values.tolist()):
        cells = ("" if math.isnan(value) else repr(value) for value in row)
        day = records.date_of(morning).isoformat()
        writer.writerow((records.crop, records.sowing_date.isoformat(), day, *cells))
    return text.getvalue()


def read_csv(path: Path) -> Records:
    """Read the records of one field.

    The header holds ``crop, sowing_date, date`` and every name in COLUMNS, in any order. Dates ascend; a date
    left out becomes a morning of NaN. A single reading out of range is kept (``features.clean`` drops and
    names it); a column that is mostly out of range is taken for a wrong unit.

    Raises:
        RecordError: the file cannot be read or used; names file, line and column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); give the path of a records CSV file") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 CSV") from None
    return parse_csv(text, str(path))


def parse_csv(text: str, source: str) -> Records:
    """Parse CSV text; ``source`` stands in error messages. See ``read_csv``."""
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        numbered = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise RecordError(f"{source}, line {lines.line_num}: not valid CSV ({error})") from None
    if not numbered:
        raise RecordError(f"{source}: empty; the first line must be {','.join((*_KEYS, *COLUMNS))}")
    header = [cell.strip() for cell in numbered[0][1]]
    _check_header(header, f"{source}, line {numbered[0][0]}")
    rows = [_Row(f"{source}, line {line}", header, cells) for line, cells in numbered[1:]]
    if not rows:
        raise RecordError(f"{source}: no records below the header; a file needs at least one morning")
    records = _assemble(rows)
    _check_units(records, source)
    return records


def _check_header(header: list[str], where: str) -> None:
    expected = (*_KEYS, *COLUMNS)
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise RecordError(f"{where}: cells must be separated by commas")
    for name in header:
        if name not in expected:
            near = difflib.get_close_matches(name, expected, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"columns are {', '.join(expected)}"
            raise RecordError(f"{where}: unknown column {name!r}; {hint}")
        if header.count(name) > 1:
            raise RecordError(f"{where}: column {name!r} stands twice; remove one")
    for name in expected:
        if name not in header:
            raise RecordError(f"{where}: column {name!r} is missing; add it, with empty cells if it is not measured")


class _Row:
    """One line of the file, its cells parsed; raises RecordError naming line and column."""

    def __init__(self, where: str, header: list[str], cells: list[str]) -> None:
        if len(cells) != len(header):
            raise RecordError(
                f"{where}: {len(cells)} cells where the header has {len(header)}; decimals are written with a point"
            )
        named = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        self.where = where
        self.crop = named["crop"]
        if self.crop not in CROPS:
            raise RecordError(f"{where}, column crop: {self.crop!r} is not known; use one of {', '.join(CROPS)}")
        self.sowing_date = _parse_date(named["sowing_date"], f"{where}, column sowing_date")
        self.date = _parse_date(named["date"], f"{where}, column date")
        self.values = [_parse_number(named[name], f"{where}, column {name}") for name in COLUMNS]


def _parse_date(cell: str, where: str) -> date:
    try:
        return date.fromisoformat(cell)
    except ValueError:
        raise RecordError(f"{where}: {cell!r} is not a date; write it like 2009-04-30") from None


def _parse_number(cell: str, where: str) -> float:
    if cell == "":
        return math.nan
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecordError(f"{where}: {cell!r} is not a number; leave the cell empty if nothing was measured")
    return value


def _assemble(rows: list[_Row]) -> Records:
    first = rows[0]
    previous: date | None = None
    for row in rows:
        if row.crop != first.crop:
            raise RecordError(f"{row.where}: crop {row.crop!r} after {first.crop!r}; a file holds one field's season")
        if row.sowing_date != first.sowing_date:
            raise RecordError(f"{row.where}: a second sowing_date {row.sowing_date}; a file holds one field's season")
        _check_order(row, previous)
        previous = row.date
    values = np.full(((rows[-1].date - first.sowing_date).days + 1, len(COLUMNS)), np.nan)
    for row in rows:
        values[(row.date - first.sowing_date).days] = row.values
    return Records(first.crop, first.sowing_date, values)


def _check_order(row: _Row, previous: date | None) -> None:
    days = (row.date - row.sowing_date).days
    if days < 0:
        raise RecordError(
            f"{row.where}, column date: {row.date} is before sowing on {row.sowing_date}; remove the line"
        )
    if days >= MAX_MORNINGS:
        raise RecordError(
            f"{row.where}, column date: {row.date} is {days} days after sowing, "
            f"more than {MAX_MORNINGS - 1}; correct date or sowing_date"
        )
    if previous is not None and row.date == previous:
        raise RecordError(f"{row.where}, column date: {row.date} stands twice; keep one line for each date")
    if previous is not None and row.date < previous:
        raise RecordError(f"{row.where}, column date: {row.date} comes after {previous}; sort the lines by date")


def _check_units(records: Records, source: str) -> None:
    """A wrong unit puts most readings out of range with changing values; a stuck sensor repeats one value."""
    for column in _COLUMNS:
        readings = records.column(column.name)
        present = readings[~np.isnan(readings)]
        outside = present[(present < column.low) | (present > column.high)]
        if len(outside) * 2 > len(present) and len(set(outside.tolist())) >= 3:
            day = records.date_of(int(np.flatnonzero(readings == outside[0])[0]))
            raise RecordError(
                f"{source}, column {column.name}: {len(outside)} of {len(present)} readings are outside "
                f"{column.low:g} to {column.high:g} {column.unit} (first {outside[0]:g} on {day}); "
                "convert the column to the unit in its name"
            )
