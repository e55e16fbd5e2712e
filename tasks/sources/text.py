"""Text files of daily weather, plain or gzip: lines with their numbers, cells as numbers, rows in the raw schema."""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.sources.schema import RAW_SCHEMA, VALUES, WeatherError

_GZIP_MAGIC = b"\x1f\x8b"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf)", re.IGNORECASE)


class Source(NamedTuple):
    """What a reader found."""

    frame: pl.DataFrame
    """Columns of RAW_SCHEMA."""
    files: tuple[Path, ...]
    description: str
    licence: str
    position: tuple[float, float] | None = None
    """Latitude and longitude in degrees, where the files tell them."""


class Row(NamedTuple):
    """One row in the order of RAW_SCHEMA."""

    file: str
    row: int
    date: date | None
    fault: str | None
    values: tuple[float | None, ...]


def package_file(package: str, *parts: str) -> Path:
    """Path of a file inside an installed package, without importing it. Raises WeatherError if not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeatherError(f"the package {package}, which brings this weather, is not installed. Run: make setup")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def read_lines(path: Path, encoding: str = "utf-8-sig") -> list[str]:
    """All lines of a plain or gzip file. Raises WeatherError if it is absent, cut short, damaged or no text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeatherError(f"{path}: cannot be read ({error.strerror}). Check the name and its permissions.") from error
    if data.startswith(_GZIP_MAGIC):
        data = _gunzip(path, data)
    elif path.suffix == ".gz":
        raise WeatherError(f"{path}: not a gzip file, in spite of its name. Download it again, or rename it to .csv.")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise WeatherError(f"{path}:{line}: not {encoding} text. Save the file as UTF-8.") from error
    return text.splitlines()


def _gunzip(path: Path, data: bytes) -> bytes:
    parts: list[bytes] = []
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            parts.append(member.decompress(data))
        except zlib.error as error:
            raise WeatherError(f"{path}: damaged gzip file ({error}). Download it again.") from error
        if not member.eof:
            line = sum(part.count(b"\n") for part in parts) + 1
            raise WeatherError(f"{path}:{line}: the gzip file is cut short in this row. Download it again.")
        data = member.unused_data
    return b"".join(parts)


def delimited(
    path: Path, separator: str | None, expected: Sequence[str], skip: int = 0
) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Rows of a table with a header line, each with its line number; None for a row of another length.

    Args:
        path: the file; blank lines are skipped.
        separator: between cells; None for any white space.
        expected: columns the header must hold, in any order and among others.
        skip: lines before the header.

    Raises:
        WeatherError: no header, a column missing or twice, or a last row cut short.
    """
    lines = read_lines(path)
    header = [name.strip() for name in (lines[skip] if len(lines) > skip else "").split(separator)]
    if absent := [name for name in expected if name not in header]:
        raise WeatherError(
            f"{path}:{skip + 1}: the header lacks {', '.join(absent)}; it holds {', '.join(header) or 'nothing'}. "
            "Check that this is the reader for this file."
        )
    if double := sorted({name for name in header if header.count(name) > 1}):
        raise WeatherError(f"{path}:{skip + 1}: the header has {', '.join(double)} twice. Rename or delete one.")
    for number, line in enumerate(lines[skip + 1 :], start=skip + 2):
        cells = [cell.strip() for cell in line.split(separator)]
        if not any(cells):
            continue
        if len(cells) < len(header) and number == len(lines):
            raise WeatherError(
                f"{path}:{number}: the last row has {len(cells)} of {len(header)} cells: the file is cut short. "
                "Copy it again."
            )
        yield number, dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None


def make_row(
    file: str,
    number: int,
    day: Callable[[], date],
    cells: Mapping[str, str],
    factors: Mapping[str, float],
    missing: Callable[[str], bool],
) -> Row:
    """One row in the schema's units.

    Args:
        file: name of the file.
        number: line in it, from 1.
        day: gives the row's date; a ValueError is noted as the row's fault.
        cells: text by schema column; columns that are absent count as not observed.
        factors: schema unit per unit of the source, by schema column; 1 where absent.
        missing: whether a cell's text means "not observed".
    """
    fault: str | None = None
    when: date | None = None
    try:
        when = day()
    except (ValueError, OverflowError):
        fault = "no such date"
    values: list[float | None] = []
    for name in VALUES:
        text = cells.get(name, "")
        value = None
        if not _NUMBER.fullmatch(text):
            if text and not missing(text):
                fault = fault or f"{name} is not a number"
        elif not missing(text):
            value = float(text) * factors.get(name, 1.0)
        values.append(value)
    return Row(file, number, when, fault, tuple(values))


def odd_row(file: str, number: int, fault: str) -> Row:
    """A row that could not be taken apart."""
    return Row(file, number, None, fault, (None,) * len(VALUES))


def make_frame(rows: Sequence[Row]) -> pl.DataFrame:
    """The rows as a table of RAW_SCHEMA."""
    flat = [(row.file, row.row, row.date, row.fault, *row.values) for row in rows]
    return pl.DataFrame(flat, schema=RAW_SCHEMA, orient="row")
