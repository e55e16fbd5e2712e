"""Stage: each site's weather as one checked Parquet table, a card that says what it is, and the rows set aside.

Writes for every site of the parameters, all or nothing:

- ``data/weather/<site>.parquet``: the table of ``tasks.sources.schema``, ascending by date;
- ``data/weather/<site>.json``: the card: span, gaps, rejected rows by reason, what is observed and what modelled;
- ``data/weather/<site>.rejected.csv``: each row set aside, with file, row, reason and what it said.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tasks.durable import replacing_dir, write_json
from tasks.params import Params, ParamsError, Site, load
from tasks.progress import track
from tasks.sources import aquacrop_climate, cabo, fao56, headland_csv, nasa_power
from tasks.sources.schema import TABLE, VALUES, WeatherError, check, gaps
from tasks.sources.text import Source

WEATHER = Path("data/weather")
_READERS: dict[str, Callable[[str], Source]] = {
    "aquacrop": aquacrop_climate.read,
    "cabo": cabo.read,
    "nasa_power": nasa_power.read,
    "headland_csv": headland_csv.read,
}
_MODELLED_BY = {
    "radiation_mj_m2": "FAO-56 eq. 50, from the range of temperature",
    "vapour_pressure_kpa": "FAO-56 eq. 48, from the least temperature",
    "wind_m_s": "2 m/s, the average FAO-56 gives",
    "et0_mm": "FAO-56 eq. 6, Penman-Monteith",
}
_PLACE_TOLERANCE_DEG = 0.5


class Prepared(NamedTuple):
    """One site's weather, checked and complete in its columns."""

    frame: pl.DataFrame
    """The table of ``tasks.sources.schema.TABLE``."""
    rejected: pl.DataFrame
    card: dict[str, Any]


def prepare(name: str, site: Site) -> Prepared:
    """Read ``site``'s source with its reader, set bad rows aside and model what it does not observe.

    Works for any file a reader knows, also outside the parameters: build a Site with the file's path as its source.

    Raises:
        WeatherError: the source cannot be read, lies elsewhere than ``site``, or has no usable row.
    """
    source = _READERS[site.reader](site.source)
    _check_place(name, site, source)
    first = check(source.frame, f"site {name}")
    second = check(fill(first.good, site), f"site {name}")
    frame = second.good.select(pl.lit(name).alias("site"), "date", *VALUES)
    rejected = pl.concat([first.rejected, second.rejected]).sort("file", "row")
    return Prepared(TABLE.validate(frame), rejected, _card(name, site, source, first.good, frame, rejected))


def _check_place(name: str, site: Site, source: Source) -> None:
    if source.position is None:
        return
    latitude, longitude = source.position
    if max(abs(latitude - site.latitude_deg), abs(longitude - site.longitude_deg)) > _PLACE_TOLERANCE_DEG:
        raise WeatherError(
            f"{source.files[0]}: lies at {latitude:g} N {longitude:g} E, but site {name} at {site.latitude_deg:g} N "
            f"{site.longitude_deg:g} E. Correct the site's latitude_deg and longitude_deg, or take another file."
        )


def fill(frame: pl.DataFrame, site: Site) -> pl.DataFrame:
    """Model the missing cells of ``et0_mm`` and of the columns it needs, from temperatures, by FAO-56.

    Args:
        frame: columns ``date`` and VALUES, ascending; tmin_c, tmax_c and rain_mm without nulls.
        site: where it lies.
    """
    columns = {name: frame[name].cast(pl.Float64).to_numpy() for name in VALUES}
    days = frame["date"].dt.ordinal_day().to_numpy().astype(np.float64)
    above = fao56.extraterrestrial_mj_m2(site.latitude_deg, days)
    tmin, tmax = columns["tmin_c"], columns["tmax_c"]
    radiation = _known_or(columns["radiation_mj_m2"], fao56.radiation_mj_m2(tmin, tmax, above, site.elevation_m))
    vapour = _known_or(columns["vapour_pressure_kpa"], fao56.vapour_pressure_kpa(tmin))
    wind = _known_or(columns["wind_m_s"], np.full(days.size, fao56.WIND_M_S))
    et0 = _known_or(columns["et0_mm"], fao56.et0_mm(tmin, tmax, radiation, vapour, wind, above, site.elevation_m))
    modelled = {"radiation_mj_m2": radiation, "vapour_pressure_kpa": vapour, "wind_m_s": wind, "et0_mm": et0}
    return frame.with_columns(pl.Series(column, values) for column, values in modelled.items())


def _known_or(observed: fao56.FloatArray, modelled: fao56.FloatArray) -> fao56.FloatArray:
    return np.where(np.isnan(observed), modelled, observed)


def _card(
    name: str, site: Site, source: Source, observed: pl.DataFrame, frame: pl.DataFrame, rejected: pl.DataFrame
) -> dict[str, Any]:
    holes = gaps(frame["date"].to_list())
    cells = {column: observed[column].null_count() for column in VALUES}
    return {
        "site": name,
        "first": str(frame["date"][0]),
        "last": str(frame["date"][-1]),
        "days": frame.height,
        "missing_days": sum((last - first).days + 1 for first, last in holes),
        "gaps": [[str(first), str(last)] for first, last in holes],
        "rejected": dict(rejected["reason"].value_counts().sort("reason").iter_rows()),
        "observed": [column for column in VALUES if cells[column] < observed.height],
        "modelled": {column: {"days": cells[column], "by": _MODELLED_BY[column]} for column in VALUES if cells[column]},
        "source": source.description,
        "licence": source.licence,
        "reader": site.reader,
        "files": [file.name for file in source.files],
        "sha256": hashlib.sha256(b"".join(file.read_bytes() for file in source.files)).hexdigest(),
    }


def write_site(folder: Path, name: str, prepared: Prepared) -> None:
    """Write table, card and rejected rows of one site into ``folder``."""
    prepared.frame.write_parquet(folder / f"{name}.parquet", compression="zstd", statistics=False)
    prepared.rejected.write_csv(folder / f"{name}.rejected.csv")
    write_json(folder / f"{name}.json", prepared.card)


def run(params: Params, root: Path = WEATHER) -> dict[str, dict[str, Any]]:
    """Prepare every site and replace ``root`` by the result; returns the cards by site."""
    cards = {}
    with replacing_dir(root) as aside:
        for name, site in track(params.sites.items(), total=len(params.sites), label="weather"):
            prepared = prepare(name, site)
            write_site(aside, name, prepared)
            cards[name] = prepared.card
    return cards


def main() -> None:
    """Run the stage in the current folder; exit code 1 and one message on any fault of its input."""
    try:
        cards = run(load())
    except (ParamsError, WeatherError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"weather: {error.filename or WEATHER}: {error.strerror}. What was there before is untouched.")
    for name, card in cards.items():
        print(
            f"{name}: {card['days']} days {card['first']} to {card['last']}, {card['missing_days']} missing, "
            f"{sum(card['rejected'].values())} rows rejected, modelled: {', '.join(card['modelled']) or 'nothing'}"
        )


if __name__ == "__main__":
    main()
