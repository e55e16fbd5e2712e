"""Weather in CABO's form (Van Kraalingen et al. 1991): one file a year, ``<station>.<last three digits of the year>``.

Comment lines start with ``*``; the first other line is longitude, latitude, elevation and two coefficients; each row is
station, year, day of the year, radiation kJ/m2, tmin, tmax, vapour pressure kPa, wind m/s, rain mm. -99 is a missing
value. Lines that start with -999 carry codes that say how values were obtained. The Wageningen file of 1989 has eight
such lines without the mark; taken for weather they are days of 1.0 everywhere, so they are recognised by their codes.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from tasks.sources.schema import WeatherError
from tasks.sources.text import Row, Source, make_frame, make_row, odd_row, package_file, read_lines

_ORDER = ("radiation_mj_m2", "tmin_c", "tmax_c", "vapour_pressure_kpa", "wind_m_s", "rain_mm")
_FACTORS = {"radiation_mj_m2": 1e-3}
_STATUS_CODES = {"1", "1.", "1.0", "1.000", "2", "2.", "2.0", "2.000", "3", "3.", "3.0", "3.000"}


def read(source: str) -> Source:
    """Read ``source``: a station whose files ship in the package ``pcse``, or a path without its ending."""
    base = Path(source) if "/" in source else package_file("pcse", "tests", "test_data", source)
    files = sorted(base.parent.glob(base.name + ".[0-9][0-9][0-9]"))
    if not files:
        raise WeatherError(f"{base}: no files {base.name}.<year> there. Check the station's name.")
    rows: list[Row] = []
    positions: set[tuple[float, float]] = set()
    for file in files:
        position, found = _read_year(file)
        positions.add(position)
        rows += found
    if len(positions) > 1:
        raise WeatherError(f"{base}.*: files of different places {sorted(positions)}. Keep one station's files.")
    return Source(
        make_frame(rows),
        tuple(files),
        "station observations (Wageningen, Haarweg) as shipped in the test data of the Python package pcse"
        if "/" not in source
        else "station observations in CABO form",
        "part of the package pcse (EUPL-1.2)" if "/" not in source else "the user's own",
        positions.pop(),
    )


def _read_year(file: Path) -> tuple[tuple[float, float], list[Row]]:
    position: tuple[float, float] | None = None
    rows: list[Row] = []
    lines = read_lines(file, "latin-1")
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or line.startswith("*"):
            continue
        if position is None:
            position = _position(file, number, words)
        elif not words[0].startswith("-999"):
            if len(words) < 3 + len(_ORDER) and number == len(lines):
                raise WeatherError(
                    f"{file}:{number}: the last row is incomplete: the file is cut short. Copy it again."
                )
            rows.append(_row(file, number, words))
    if position is None:
        raise WeatherError(f"{file}:1: no line with longitude, latitude and elevation. Is this a CABO weather file?")
    return position, rows


def _position(file: Path, number: int, words: list[str]) -> tuple[float, float]:
    try:
        longitude, latitude, _elevation, *_ = (float(word) for word in words)
    except ValueError as error:
        raise WeatherError(
            f"{file}:{number}: expected longitude, latitude and elevation. Is this a CABO weather file?"
        ) from error
    return latitude, longitude


def _row(file: Path, number: int, words: list[str]) -> Row:
    if len(words) != 3 + len(_ORDER):
        return odd_row(file.name, number, "wrong number of cells")
    if set(words[3:]) <= _STATUS_CODES:
        return odd_row(file.name, number, "status codes without their -999 mark")
    if words[1][-3:] != file.suffix[1:]:
        return odd_row(file.name, number, "year is not the file's")
    cells = dict(zip(_ORDER, words[3:], strict=True))
    return make_row(file.name, number, lambda: _day(words), cells, _FACTORS, lambda text: text.startswith("-99"))


def _day(words: list[str]) -> date:
    year, day = int(words[1]), int(words[2])
    when = date(year, 1, 1) + timedelta(days=day - 1)
    if when.year != year:
        raise ValueError(f"no day {day} in {year}")
    return when
