"""Weather as the simulators take it: tables read back from disk, seasons cut out of them, gaps refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from pandera.errors import SchemaError, SchemaErrors
from pydantic import ValidationError

from tasks.crops.interface import DailyWeather
from tasks.params import Params, Site
from tasks.params_file import explain, nearest
from tasks.sources import nasa_power
from tasks.sources.schema import TABLE, VALUES, WeatherError, gaps
from tasks.sources.weather import prepare

_FORMS = {"nasa-power": "nasa_power", "headland": "headland_csv"}


def read_weather(path: Path) -> pl.DataFrame:
    """Read one site's table. Raises WeatherError for a file that is absent, cut short or not to the schema."""
    try:
        frame = pl.read_parquet(path, hive_partitioning=False)
    except FileNotFoundError as error:
        raise WeatherError(f"{path}: no such file. Run the weather stage: dvc repro weather") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise WeatherError(
            f"{path}: not a whole Parquet file ({reason}). Delete it and run the weather stage: dvc repro weather"
        ) from error
    try:
        return TABLE.validate(frame)
    except (SchemaError, SchemaErrors) as error:
        reason = str(error).splitlines()[0]
        raise WeatherError(f"{path}: not a table of daily weather: {reason}. Run: dvc repro weather") from error


def load_daily(frame: pl.DataFrame, name: str, site: Site, first: date, last: date) -> DailyWeather:
    """The days ``first`` to ``last``, both included, as arrays.

    Args:
        frame: a table that ``read_weather`` gives.
        name: the site's name.
        site: where it lies.
        first: first day wanted.
        last: last day wanted.

    Raises:
        WeatherError: any of these days has no row; the missing stretches are named.
    """
    rows = frame.filter(pl.col("date").is_between(first, last))
    if rows.height != (last - first).days + 1:
        raise WeatherError(_missing(frame, name, first, last))
    columns = {column: np.ascontiguousarray(rows[column].to_numpy(), dtype=np.float64) for column in VALUES}
    return DailyWeather(
        site=name,
        first_day=first,
        latitude_deg=site.latitude_deg,
        longitude_deg=site.longitude_deg,
        elevation_m=site.elevation_m,
        **columns,
    )


def _missing(frame: pl.DataFrame, name: str, first: date, last: date) -> str:
    day = timedelta(days=1)
    have = frame.filter(pl.col("date").is_between(first, last))["date"].to_list()
    holes = gaps([first - day, *have, last + day])
    named = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in holes[:5])
    more = f" and {len(holes) - 5} more stretches" if len(holes) > 5 else ""
    return (
        f"site {name}: no weather on {named}{more}; it is known from {frame['date'][0]} to {frame['date'][-1]}. "
        f"See {name}.json and {name}.rejected.csv for what was set aside, or leave this season out."
    )


@dataclass(frozen=True)
class SiteWeather:
    """One site's weather, season by season; a season is a calendar year."""

    name: str
    site: Site
    frame: pl.DataFrame

    def seasons(self, days: int) -> list[int]:
        """Years of which the first ``days`` days are all known, ascending."""
        early = self.frame.filter(pl.col("date").dt.ordinal_day() <= days)
        counts = early.group_by(pl.col("date").dt.year().alias("year")).len()
        return sorted(counts.filter(pl.col("len") == days)["year"].to_list())

    def season_weather(self, season: int, days: int | None = None) -> DailyWeather:
        """Weather of the year ``season`` from 1 January.

        Args:
            season: the year.
            days: how many days are wanted. Without it all until the year ends or the first gap begins: weather
                after a harvest is nobody's concern, and a field that needs more is refused by its simulator.

        Raises:
            WeatherError: one of the ``days``, or 1 January, has no row; what is missing is named.
        """
        first = date(season, 1, 1)
        if days is None:
            known = set(self.frame.filter(pl.col("date").dt.year() == season)["date"])
            days = next((i for i in range(367) if first + timedelta(days=i) not in known), 0)
            if days == 0:
                raise WeatherError(_missing(self.frame, self.name, first, date(season, 12, 31)))
        return load_daily(self.frame, self.name, self.site, first, first + timedelta(days=days - 1))


def load_site(name: str, params: Params, root: Path = Path("data/weather")) -> SiteWeather:
    """Read the table that the weather stage wrote for the site ``name``."""
    return SiteWeather(name, params.sites[name], read_weather(root / f"{name}.parquet"))


def read_sites(params: Params, root: Path = Path("data/weather")) -> dict[str, SiteWeather]:
    """Every site's weather by name."""
    return {name: load_site(name, params, root) for name in params.sites}


def read_any(
    path: Path, form: str, latitude_deg: float | None, longitude_deg: float, elevation_m: float
) -> SiteWeather:
    """Anyone's weather file, checked and completed as the weather stage does it.

    Args:
        path: the file.
        form: ``nasa-power`` or ``headland``.
        latitude_deg: degrees north; None if the file tells it.
        longitude_deg: degrees east, for a file that does not tell it.
        elevation_m: metres above the sea.

    Raises:
        WeatherError: an unknown form, a latitude that nothing tells, or a file that cannot be used.
    """
    reader = _FORMS.get(form)
    if reader is None:
        raise WeatherError(f"{form}: unknown form of weather. {nearest(form, _FORMS)}")
    place = nasa_power.read(str(path)).position if reader == "nasa_power" else None
    latitude = latitude_deg if latitude_deg is not None else place[0] if place else None
    if latitude is None:
        raise WeatherError(f"{path}: does not tell its latitude. Give --latitude-deg.")
    name = path.name.split(".")[0]
    values = {"reader": reader, "source": str(path), "latitude_deg": latitude, "elevation_m": elevation_m}
    values |= {"longitude_deg": place[1] if place else longitude_deg}
    values |= {"years_behind_reference": 0, "crops": (), "held_out_crops": ()}
    try:
        site = Site.model_validate(values)
    except ValidationError as error:
        raise WeatherError("; ".join(f"{key[0]}: {text}" for key, text in explain(error, Site))) from None
    return SiteWeather(name, site, prepare(name, site).frame)
