"""Fields to learn on: real training seasons, and synthetic years spliced from blocks of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.crops.fields import draw_field, field_rng
from tasks.crops.interface import Crop, CropBatch, DailyWeather, Field, open_batch
from tasks.params import Params
from tasks.sources.daily import SiteWeather

DAILY = ("tmin_c", "tmax_c", "rain_mm", "et0_mm", "radiation_mj_m2", "vapour_pressure_kpa", "wind_m_s")
"""Columns of a year's weather."""


@dataclass(frozen=True)
class World:
    """Fields of many seasons in one batch; each field's ``site`` is the key of its own year in ``weather``."""

    fields: tuple[Field, ...]
    weather: Mapping[str, DailyWeather]

    def __len__(self) -> int:
        return len(self.fields)

    def of(self, rows: NDArray[np.int64]) -> World:
        """Some of its fields."""
        return World(tuple(self.fields[i] for i in rows.tolist()), self.weather)


def seasons_of(crop: Crop, params: Params, sites: Mapping[str, SiteWeather]) -> dict[str, tuple[list[int], list[int]]]:
    """Training and validation seasons of every site that grows ``crop`` for training."""
    ranges, found = params.fields.of(crop), {}
    for name, site in params.sites.items():
        if crop in site.crops:
            split = params.split(name, sites[name].seasons(ranges.sowing_day[1] + ranges.season_days))
            found[name] = (list(split.train), list(split.validation))
    return found


def years_of(sites: Mapping[str, SiteWeather], seasons: Mapping[str, Iterable[int]]) -> dict[str, DailyWeather]:
    """Weather of the seasons, by ``site/year``, each under that name."""
    return {
        f"{name}/{year}": replace(sites[name].season_weather(year), site=f"{name}/{year}")
        for name, years in seasons.items()
        for year in years
    }


def spliced(years: Sequence[DailyWeather], name: str, block_days: int, rng: np.random.Generator) -> DailyWeather:
    """A synthetic year: blocks of days, each from a year drawn anew, on the days of the year where they were observed.

    Args:
        years: of one site, each from 1 January.
        name: of the new one.
        block_days: length of a block; weather changes its year once in as many days.
        rng: of this year.
    """
    length = min(each.rain_mm.size for each in years)
    starts = range(int(rng.integers(block_days)) - block_days, length, block_days)
    source = np.concatenate([np.full(block_days, rng.integers(len(years))) for _ in starts])
    source = source[-starts[0] : -starts[0] + length]
    template = years[int(rng.integers(len(years)))]
    day = np.arange(length)
    columns = {column: np.stack([getattr(each, column)[:length] for each in years])[source, day] for column in DAILY}
    return replace(template, site=name, **columns)


def synthetic_years(
    years: Mapping[str, DailyWeather], count: int, block_days: int, seed: int
) -> dict[str, DailyWeather]:
    """``count`` spliced years of each site among ``years``, by ``site/spliced-number``."""
    by_site: dict[str, list[DailyWeather]] = {}
    for key, each in years.items():
        by_site.setdefault(key.partition("/")[0], []).append(each)
    return {
        f"{site}/spliced-{i}": spliced(own, f"{site}/spliced-{i}", block_days, field_rng(seed, site, "spliced", i))
        for site, own in by_site.items()
        for i in range(count)
    }


def world_of(
    crop: Crop, years: Mapping[str, DailyWeather], per_year: int, params: Params, name: str, count: int | None = None
) -> World:
    """Fields drawn from params on every year, or on ``count`` years drawn with replacement.

    Args:
        crop: what grows.
        years: by key.
        per_year: fields on each.
        params: what fields look like, and the seed.
        name: of this draw: another name draws other fields and other sensor errors.
        count: how many years; all once if None.
    """
    keys = list(years)
    if count is not None:
        keys = [keys[i] for i in field_rng(params.seed, crop, "years", name).integers(len(keys), size=count)]
    found = []
    for k, key in enumerate(keys):
        site, season = key.partition("/")[0], years[key].first_day.year
        for number in range(per_year):
            field = draw_field(crop, f"{site}-{name}-{k}", season, number, params.fields.of(crop), params.seed)
            found.append(replace(field, site=key))
    return World(tuple(found), years)


class Ahead(Protocol):
    """Seasons that may come, to branch fields into."""

    batch: CropBatch

    def rows(self, fields: Sequence[Field], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """For each field ``count`` different futures, rows of ``batch``; shape (len(fields), count)."""


class Futures:
    """Weather that may come: for each day of sowing a field in each year, to branch fields into."""

    def __init__(self, crop: Crop, years: Mapping[str, DailyWeather], params: Params) -> None:
        ranges = params.fields.of(crop)
        self._first, last = ranges.sowing_day
        self._keys = list(years)
        fields = [
            Field(
                field_id=f"future-{day}-{key}",
                crop=crop,
                site=key,
                season=years[key].first_day.year,
                soil=ranges.soils[0],
                sowing_date=years[key].first_day + timedelta(days=day - 1),
                season_days=ranges.season_days,
                initial_water_frac=1.0,
            )
            for day in range(self._first, last + 1)
            for key in self._keys
        ]
        self.batch: CropBatch = open_batch(tuple(fields), years)

    def rows(self, fields: Sequence[Field], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """For each field ``count`` different futures; see ``Ahead``."""
        years = len(self._keys)
        drawn = np.argsort(rng.random((len(fields), years)), axis=1)[:, : min(count, years)]
        day = np.array([(field.sowing_date - date(field.sowing_date.year, 1, 1)).days + 1 for field in fields])
        return np.asarray((day[:, None] - self._first) * years + drawn, dtype=np.int64)
