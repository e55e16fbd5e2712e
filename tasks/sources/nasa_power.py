"""NASA POWER daily weather as CSV, plain or gzip, in either of two forms.

As fetched by pcse: ``DAY,IRRAD,TMIN,TMAX,VAP,WIND,RAIN,...,ET0`` in J/m2/d, degrees Celsius, hPa, m/s at 2 m, cm/d.
As served by NASA: a block ``-BEGIN HEADER-`` to ``-END HEADER-``, then ``YEAR,DOY`` or ``YEAR,MO,DY`` and parameters by
NASA's names in MJ/m2/d, degrees Celsius, m/s, mm/d; -999 is a missing value.
"""

from __future__ import annotations

import math
import re
from datetime import date, timedelta
from functools import partial
from pathlib import Path

from tasks.sources.schema import WeatherError
from tasks.sources.text import Row, Source, delimited, make_frame, make_row, odd_row, read_lines

_PCSE = {
    "tmin_c": ("TMIN", 1.0),
    "tmax_c": ("TMAX", 1.0),
    "rain_mm": ("RAIN", 10.0),
    "et0_mm": ("ET0", 10.0),
    "radiation_mj_m2": ("IRRAD", 1e-6),
    "vapour_pressure_kpa": ("VAP", 0.1),
    "wind_m_s": ("WIND", 1.0),
}
_NASA = {
    "tmin_c": "T2M_MIN",
    "tmax_c": "T2M_MAX",
    "rain_mm": "PRECTOTCORR",
    "radiation_mj_m2": "ALLSKY_SFC_SW_DWN",
    "vapour_pressure_kpa": "T2MDEW",
    "wind_m_s": "WS2M",
}
_PLACE_LINE = re.compile(r"latitude\s+(-?[0-9.]+)\s+longitude\s+(-?[0-9.]+)", re.IGNORECASE)
_PLACE_NAME = re.compile(r"LAT(-?[0-9]{4,5})_LON(-?[0-9]{4,5})")
_END = "-END HEADER-"
_DESCRIPTION = "NASA POWER: satellite and reanalysis of a grid cell, not a station"
_LICENCE = "NASA open data; acknowledge NASA POWER (power.larc.nasa.gov)"


def read(source: str) -> Source:
    """Read the CSV at the path ``source``, telling its form from its first lines."""
    path = Path(source)
    lines = [line.strip() for line in read_lines(path)]
    if lines and lines[0].startswith("-BEGIN HEADER-"):
        if _END not in lines:
            raise WeatherError(
                f"{path}:1: the block -BEGIN HEADER- has no {_END}: the file is cut short. Fetch it again."
            )
        rows = _nasa_rows(path, lines.index(_END) + 1)
    else:
        rows = _pcse_rows(path)
    return Source(make_frame(rows), (path,), _DESCRIPTION, _LICENCE, _position(path, lines[:40]))


def _position(path: Path, lines: list[str]) -> tuple[float, float] | None:
    """Latitude and longitude, from NASA's header or a name like pcse's ``LAT00520_LON-0990`` in tenths of degrees."""
    if found := next(filter(None, map(_PLACE_LINE.search, lines)), None):
        return float(found[1]), float(found[2])
    if found := _PLACE_NAME.match(path.name):
        return int(found[1]) / 10, int(found[2]) / 10
    return None


def _pcse_rows(path: Path) -> list[Row]:
    factors = {name: factor for name, (_, factor) in _PCSE.items()}
    rows = []
    for number, found in delimited(path, ",", ["DAY", *(column for column, _ in _PCSE.values())]):
        if found is None:
            rows.append(odd_row(path.name, number, "wrong number of cells"))
            continue
        cells = {name: found[column] for name, (column, _) in _PCSE.items()}
        rows.append(make_row(path.name, number, partial(date.fromisoformat, found["DAY"]), cells, factors, _missing))
    return rows


def _nasa_rows(path: Path, skip: int) -> list[Row]:
    rows = []
    for number, found in delimited(path, ",", ["YEAR", "T2M_MIN", "T2M_MAX", "PRECTOTCORR"], skip):
        if found is None:
            rows.append(odd_row(path.name, number, "wrong number of cells"))
            continue
        cells = {name: found.get(column, "") for name, column in _NASA.items()}
        cells["vapour_pressure_kpa"] = _vapour(cells["vapour_pressure_kpa"])
        rows.append(make_row(path.name, number, partial(_day, found), cells, {}, _missing))
    return rows


def _missing(text: str) -> bool:
    return not text or text.startswith("-999")


def _vapour(dew_point_c: str) -> str:
    """Vapour pressure in kPa at the dew point, FAO-56 eq. 14; what is no number stays as it is, to be judged later."""
    try:
        dew_point = float(dew_point_c)
    except ValueError:
        return dew_point_c
    return dew_point_c if _missing(dew_point_c) else repr(0.6108 * math.exp(17.27 * dew_point / (dew_point + 237.3)))


def _day(cells: dict[str, str]) -> date:
    year = int(cells["YEAR"])
    if "DOY" not in cells:
        return date(year, int(cells.get("MO", "")), int(cells.get("DY", "")))
    when = date(year, 1, 1) + timedelta(days=int(cells["DOY"]) - 1)
    if when.year != year:
        raise ValueError(f"no day {cells['DOY']} in {year}")
    return when
