"""Field seasons by the million: in parts that depend on nothing but their number, from training weather only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.advantage.worlds import seasons_of, years_of
from tasks.crops.interface import DailyWeather
from tasks.params import Params
from tasks.sources.daily import SiteWeather
from tasks.worlds.stream import PART, PER_YEAR, StreamError, made_of, part_world, stream


@pytest.fixture(scope="module")
def years(params: Params, sites: dict[str, SiteWeather]) -> dict[str, DailyWeather]:
    return years_of(sites, {name: split[0] for name, split in seasons_of("maize", params, sites).items()})


def test_parts_differ_and_a_part_is_always_the_same(params: Params, years: dict[str, DailyWeather]) -> None:
    first, again, second = (part_world(params, "maize", years, number, True) for number in (0, 0, 1))
    assert first.fields == again.fields
    assert len(first) == PART
    assert len({field.field_id for field in (*first.fields, *second.fields)}) == 2 * PART
    assert len({field.site for field in first.fields}) == len(first.weather) == PART // PER_YEAR
    for key, year in first.weather.items():
        assert np.array_equal(year.rain_mm, again.weather[key].rain_mm)
        assert all(not np.array_equal(year.rain_mm, other.rain_mm) for other in second.weather.values())
    assert not first.weather.keys() & second.weather.keys()


def test_no_day_is_of_a_season_that_is_tested(
    params: Params, sites: dict[str, SiteWeather], years: dict[str, DailyWeather]
) -> None:
    known = {(day, each.rain_mm[day], each.tmax_c[day]) for each in years.values() for day in range(290)}
    world = part_world(params, "maize", years, 3, True)
    for each in world.weather.values():
        assert all((day, each.rain_mm[day], each.tmax_c[day]) in known for day in range(290))
    tested = sites["champion"].season_weather(params.as_of)
    assert any((day, tested.rain_mm[day], tested.tmax_c[day]) not in known for day in range(290))
    assert {field.season for field in world.fields} <= {each.first_day.year for each in years.values()}


def test_fields_lie_on_every_soil_of_params_and_on_no_other(params: Params, years: dict[str, DailyWeather]) -> None:
    soils = {field.soil for field in part_world(params, "maize", years, 0, False).fields}
    assert soils == set(params.fields.maize.soils)


@pytest.mark.slow
def test_what_is_missing_or_damaged_is_made_and_nothing_else(
    params: Params, weather_folder: Path, tmp_path: Path
) -> None:
    assert stream(params, weather_folder, tmp_path, "wheat", PART + 1, True) == 2
    first, second = sorted((tmp_path / "wheat").iterdir())
    whole = first.read_bytes()
    assert pl.read_parquet(first)["field_id"].n_unique() == PART
    assert stream(params, weather_folder, tmp_path, "wheat", PART + 1, True) == 0
    first.write_bytes(whole[:1000])
    before = second.stat().st_mtime_ns
    assert stream(params, weather_folder, tmp_path, "wheat", PART + 1, True) == 1
    assert (first.read_bytes(), second.stat().st_mtime_ns) == (whole, before)
    assert stream(params, weather_folder, tmp_path, "wheat", 1, True) == 0
    assert second.exists()  # as good as it was, though fewer are asked for now
    rollout = params.rollout.model_copy(update={"soak_h": 1.0})
    assert stream(params.model_copy(update={"rollout": rollout}), weather_folder, tmp_path, "wheat", 1, True) == 0
    other = params.model_copy(update={"seed": params.seed + 1})
    assert stream(other, weather_folder, tmp_path, "wheat", 1, True) == 1
    assert first.read_bytes() != whole
    assert not second.exists()


def test_other_weather_makes_other_parts(params: Params, years: dict[str, DailyWeather]) -> None:
    key, year = next(iter(years.items()))
    rain_mm = year.rain_mm.copy()
    rain_mm[100] += 0.1
    changed = {**years, key: replace(year, rain_mm=rain_mm)}
    assert made_of(params, "maize", years, True) != made_of(params, "maize", changed, True)


def test_a_crop_nobody_grows_is_refused(params: Params, weather_folder: Path, tmp_path: Path) -> None:
    nowhere = {name: site.model_copy(update={"crops": []}) for name, site in params.sites.items()}
    with pytest.raises(StreamError, match="grows wheat"):
        stream(params.model_copy(update={"sites": nowhere}), weather_folder, tmp_path, "wheat", 1, True)


def test_somebody_elses_table_is_neither_removed_nor_mixed_in(
    params: Params, weather_folder: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "wheat" / "part-00000.parquet"
    theirs.parent.mkdir()
    pl.DataFrame({"a": [1]}).write_parquet(theirs)
    before = theirs.read_bytes()
    with pytest.raises(StreamError, match="was not made by headland worlds"):
        stream(params, weather_folder, tmp_path, "wheat", 1, True)
    assert theirs.read_bytes() == before
