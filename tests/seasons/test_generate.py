from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from headland_edge.records import COLUMNS

from tasks.crops.fields import draw_fields
from tasks.seasons.generate import code_hash, season_file, simulate, update_season
from tasks.seasons.practices import MOST_IRRIGATION_MM, draw_practice
from tasks.seasons.schema import DAILY, SCHEMA, TRUTH


@pytest.fixture(scope="module")
def fields(params):
    return draw_fields("maize", "champion", [2001], 3, params.fields.maize, params.seed)


@pytest.fixture(scope="module")
def rows(params, fields, weather):
    return simulate(fields, {"champion": weather}, params)


def test_rows_follow_the_schema(rows):
    assert DAILY.validate(rows).columns == list(SCHEMA)


def test_every_field_has_a_row_for_each_morning_from_sowing_on(rows):
    for _, field in rows.group_by("field_id"):
        days = field.sort("days_after_sowing")
        assert days["days_after_sowing"].to_list() == list(range(days.height))
        assert days["date"][0] == days["sowing_date"][0]


def test_truth_and_records_are_separate_columns():
    assert not set(COLUMNS) & set(TRUTH)
    assert all(name.startswith("truth_") for name in TRUTH)


def test_a_second_run_simulates_nothing_and_leaves_the_bytes(tmp_path, params, fields, weather):
    file = season_file(tmp_path, "maize", "champion", 2001)
    assert update_season(file, fields, weather, params, "code") == len(fields)
    before = file.read_bytes()
    assert update_season(file, fields, weather, params, "code") == 0
    assert file.read_bytes() == before


def test_adding_a_field_simulates_only_it_and_gives_the_bytes_of_a_fresh_run(tmp_path, params, fields, weather):
    grown, fresh = tmp_path / "grown.parquet", tmp_path / "fresh.parquet"
    update_season(grown, fields[:2], weather, params, "code")
    assert update_season(grown, fields, weather, params, "code") == 1
    update_season(fresh, fields, weather, params, "code")
    assert grown.read_bytes() == fresh.read_bytes()


def test_removing_a_field_keeps_the_others(tmp_path, params, fields, weather):
    file = tmp_path / "2001.parquet"
    update_season(file, fields, weather, params, "code")
    assert update_season(file, fields[:2], weather, params, "code") == 0
    assert pl.read_parquet(file)["field_id"].n_unique() == 2


def test_changed_weather_simulates_again(tmp_path, params, fields, weather):
    from dataclasses import replace

    file = tmp_path / "2001.parquet"
    update_season(file, fields, weather, params, "code")
    wetter = replace(weather, rain_mm=weather.rain_mm + 1.0)
    assert update_season(file, fields, wetter, params, "code") == len(fields)


def test_changed_simulator_code_simulates_again(tmp_path, params, fields, weather):
    file = tmp_path / "2001.parquet"
    update_season(file, fields, weather, params, "code")
    assert update_season(file, fields, weather, params, "other code") == len(fields)
    assert len(code_hash()) == 64


def test_a_truncated_season_file_is_made_again(tmp_path, params, fields, weather):
    file = tmp_path / "2001.parquet"
    update_season(file, fields, weather, params, "code")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert update_season(file, fields, weather, params, "code") == len(fields)
    assert file.read_bytes() == whole


def test_damage_in_the_middle_of_a_season_file_is_made_again(tmp_path, params, fields, weather):
    file = tmp_path / "2001.parquet"
    update_season(file, fields, weather, params, "code")
    whole = bytearray(file.read_bytes())
    whole[100:4000] = bytes(3900)
    file.write_bytes(whole)
    assert pq.read_schema(file)
    update_season(file, fields, weather, params, "code")
    assert DAILY.validate(pl.read_parquet(file)).height


def test_practices_vary_between_fields_and_belong_to_the_field(params):
    many = draw_fields("maize", "champion", list(range(1982, 2002)), 4, params.fields.maize, params.seed)
    practices = [draw_practice(field, params.seed) for field in many]
    assert {practice.name for practice in practices} == {"rainfed", "weekly", "threshold", "whim"}
    again = draw_practice(many[3], params.seed)
    assert again.name == practices[3].name
    np.testing.assert_array_equal(again.calendar, practices[3].calendar)


def test_no_grower_irrigates_more_in_a_day_than_a_sprinkler_gives(params, weather):
    fields = draw_fields("maize", "champion", [2001], 40, params.fields.maize, params.seed)
    rows = simulate(fields, {"champion": weather}, params)
    most = rows.filter(pl.col("practice") == "threshold")["irrigation_mm"].max()
    assert 0 < most <= MOST_IRRIGATION_MM


def test_season_files_are_partitioned_by_crop_site_and_season():
    assert season_file(Path("x"), "maize", "champion", 1999) == Path("x/maize/champion/1999.parquet")
