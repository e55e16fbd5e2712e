from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from headland_edge.features import clean, derive, window
from headland_edge.records import COLUMNS, Records
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.crops.fields import draw_fields
from tasks.features.derive import NAMES, SeasonFileError, build, read_columns, records_of, season_features
from tasks.seasons.generate import simulate, update_season
from tasks.seasons.schema import TRUTH


@pytest.fixture(scope="module")
def rows(params, weather):
    fields = draw_fields("maize", "champion", [2001], 2, params.fields.maize, params.seed)
    return simulate(fields, {"champion": weather}, params)


def test_the_cloud_derives_what_the_device_derives_bit_for_bit(rows):
    cloud = season_features(rows)
    for (name,), field in rows.group_by("field_id"):
        records = records_of(field.sort("days_after_sowing"))
        mine = cloud.filter(pl.col("field_id") == name).select(f"x_{n}" for n in NAMES).to_numpy()
        for morning in (0, 1, 40, records.n_mornings - 1):
            device = Records(records.crop, records.sowing_date, records.values[: morning + 1].copy())
            cleaned, _ = clean(device)
            assert derive(cleaned)[-1].tobytes() == mine[morning].tobytes()


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_random_histories_window_alike_on_both_sides(data):
    from datetime import date

    days = data.draw(st.integers(1, 90))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(20, 60, (days, len(COLUMNS)))
    values[rng.random(values.shape) < data.draw(st.floats(0, 1))] = np.nan
    crop = data.draw(st.sampled_from(["maize", "wheat"]))
    whole = derive(clean(Records(crop, date(2001, 5, 1), values))[0])
    padded = np.vstack([np.zeros((63, len(NAMES)), np.float32), whole])
    morning = data.draw(st.integers(0, days - 1))
    device = derive(clean(Records(crop, date(2001, 5, 1), values[: morning + 1].copy()))[0])
    cloud = padded[morning : morning + 64].T
    assert window(device, morning, 64).tobytes() == np.ascontiguousarray(cloud).tobytes()


def test_truth_never_passes_through_features(rows):
    scrambled = rows.with_columns(pl.lit(-1234.5).alias(name) for name in TRUTH)
    assert season_features(scrambled).equals(season_features(rows))
    assert not [name for name in season_features(rows).columns if "truth" in name or "yield" in name]


def test_the_stage_reads_no_truth_column(tmp_path, params, weather, rows):
    fields = draw_fields("maize", "champion", [2001], 2, params.fields.maize, params.seed)
    seasons = tmp_path / "seasons"
    file = seasons / "maize/champion/2001.parquet"
    update_season(file, fields, weather, params, "code")
    build(seasons, tmp_path / "a")
    pl.read_parquet(file).drop(TRUTH).write_parquet(file)
    build(seasons, tmp_path / "b")
    made = [next(folder.rglob("*.parquet")).read_bytes() for folder in (tmp_path / "a", tmp_path / "b")]
    assert made[0] == made[1]


def test_a_truncated_season_file_is_named_and_old_features_stay(tmp_path, params, weather):
    fields = draw_fields("maize", "champion", [2001], 1, params.fields.maize, params.seed)
    seasons, target = tmp_path / "seasons", tmp_path / "features"
    file = seasons / "maize/champion/2001.parquet"
    update_season(file, fields, weather, params, "code")
    build(seasons, target)
    before = next(target.rglob("*.parquet")).read_bytes()
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SeasonFileError, match=r"2001\.parquet.*dvc repro"):
        build(seasons, target)
    assert next(target.rglob("*.parquet")).read_bytes() == before


def test_a_missing_column_is_named(tmp_path, rows):
    file = tmp_path / "x.parquet"
    rows.drop("rain_mm").write_parquet(file)
    with pytest.raises(SeasonFileError, match="rain_mm"):
        read_columns(file, ("rain_mm",))


def test_a_hole_in_the_mornings_is_refused(rows):
    field = rows.filter(pl.col("field_id") == rows["field_id"][0], pl.col("days_after_sowing") != 5)
    with pytest.raises(ValueError, match="not consecutive"):
        records_of(field)
