"""Rows, files and sites that the tests of weather start from."""

from __future__ import annotations

from datetime import date

import polars as pl

from tasks.params import Site
from tasks.sources.schema import RAW_SCHEMA, VALUES


def site(reader: str, source: str, latitude_deg: float = 45.0, longitude_deg: float = 5.0) -> Site:
    return Site.model_validate(
        {
            "reader": reader,
            "source": source,
            "latitude_deg": latitude_deg,
            "longitude_deg": longitude_deg,
            "elevation_m": 100.0,
            "years_behind_reference": 0,
            "crops": ("maize",),
            "held_out_crops": (),
        }
    )


GOOD = {
    "tmin_c": 10.0,
    "tmax_c": 20.0,
    "rain_mm": 1.5,
    "et0_mm": 3.0,
    "radiation_mj_m2": 18.0,
    "vapour_pressure_kpa": 1.2,
    "wind_m_s": 2.5,
}


def raw(*rows: dict[str, object]) -> pl.DataFrame:
    """Raw rows, one a day from 2001-05-01, each good but for what is given."""
    full = [
        {"file": "f", "row": i + 2, "date": date(2001, 5, i + 1), "fault": None, **GOOD, **row}
        for i, row in enumerate(rows)
    ]
    assert all(set(row) == set(RAW_SCHEMA) for row in full)
    return pl.DataFrame(full, schema=RAW_SCHEMA, orient="row")


def csv_text(days: int = 5, columns: tuple[str, ...] = VALUES) -> str:
    """A good CSV in the schema's own form, from 2001-01-01."""
    lines = [",".join(("date", *columns))]
    for i in range(days):
        day = date.fromordinal(date(2001, 1, 1).toordinal() + i)
        lines.append(",".join((str(day), *(str(GOOD[name] + 0.01 * (i % 7)) for name in columns))))
    return "\n".join(lines) + "\n"
