"""What comes back from the field is learned from as it was sent, and never before its time."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from headland_edge.features import clean, derive
from headland_edge.records import COLUMNS, Records

from tasks.crops.fields import draw_fields
from tasks.features.derive import NAMES, build
from tasks.features.field import FieldDataError, FieldFile, field_files, field_rows
from tasks.features.labels import label_rows, refuse_future
from tasks.features.windows import FIELD_SHARE, MOST_REPEATS, repeated, write_windows
from tasks.seasons.generate import season_file, update_season
from tests.conftest import made_up_weather


def sent(season: int, field_id: str = "dev-1/a", mornings: int = 70, crop: str = "maize", **changes: object):
    """Rows as a sync writes them."""
    rng = np.random.default_rng(season)
    sown = changes.pop("sowing_date", date(season, 4, 28))
    days = np.arange(mornings, dtype=np.int32)
    rows = pl.DataFrame(
        {
            "crop": crop,
            "site": "field",
            "season": season,
            "field_id": field_id,
            "days_after_sowing": days,
            "date": [sown + timedelta(days=int(day)) for day in days],
            "sowing_date": sown,
            **{name: rng.uniform(0.1, 1.0, mornings).round(2) for name in COLUMNS},
            "why": "random",
            "harvest_t_ha": 9.5,
            "release_counter": 1,
        }
    )
    return rows.with_columns(pl.col("season").cast(pl.Int32), **changes)


def put(root, rows: pl.DataFrame, crop: str = "maize") -> FieldFile:
    season = int(rows["season"][0])
    path = root / crop / f"{season}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(path)
    return FieldFile(crop, season, path)


@pytest.fixture(scope="module")
def seasons(tmp_path_factory, params):
    root = tmp_path_factory.mktemp("seasons")
    for season in range(2003, 2012):
        fields = draw_fields("maize", "champion", [season], 1, params.fields.maize, params.seed)
        file = season_file(root, "maize", "champion", season)
        update_season(file, fields, made_up_weather("champion", season), params, "code")
    return root


def test_without_field_data_everything_is_as_before(tmp_path, seasons, params):
    nothing = tmp_path / "none"
    assert field_files(nothing) == []
    labels = label_rows("yield", params, seasons, nothing)
    assert set(labels["site"]) == {"champion"}
    build(seasons, tmp_path / "features", nothing)
    assert not (tmp_path / "features/maize/field").exists()


@pytest.mark.parametrize("season", [2009, 2010, 2011, 2030])
def test_no_field_season_at_or_after_as_of_is_learned_from(tmp_path, seasons, params, season):
    put(tmp_path, sent(season))
    put(tmp_path, sent(2008))
    labels = label_rows("yield", params, seasons, tmp_path)
    ours = labels.filter(pl.col("site") == "field")
    assert set(ours["season"]) == {2008}
    assert set(ours["split"]) == {"train"}
    late = ours.head(1).with_columns(season=pl.lit(season, pl.Int32))
    with pytest.raises(ValueError, match=str(params.as_of)):
        refuse_future(pl.concat([labels, late]), params)


def test_a_field_validates_in_a_year_that_validates(tmp_path, seasons, params):
    found = params.split("champion", range(2003, 2012))
    put(tmp_path, sent(found.validation[0]))
    put(tmp_path, sent(found.train[-1]))
    ours = label_rows("yield", params, seasons, tmp_path).filter(pl.col("site") == "field")
    by_season = dict(ours.group_by("season").agg(pl.col("split").first()).iter_rows())
    assert by_season == {found.validation[0]: "validation", found.train[-1]: "train"}


def test_weather_of_a_held_out_year_is_not_learned_from_whatever_season_it_claims(tmp_path, seasons, params):
    put(tmp_path, sent(2008, sowing_date=date(2010, 4, 28)))
    assert "field" not in set(label_rows("yield", params, seasons, tmp_path)["site"])


def test_only_the_yield_is_learned_from_a_harvest(tmp_path, seasons, params):
    put(tmp_path, sent(2008))
    assert "field" not in set(label_rows("irrigation", params, seasons, tmp_path)["site"])
    ours = label_rows("yield", params, seasons, tmp_path).filter(pl.col("site") == "field")
    assert ours.height == 70
    assert set(ours["target"]) == {9.5}


def test_a_field_that_was_not_weighed_teaches_nothing(tmp_path, seasons, params):
    put(tmp_path, sent(2008, harvest_t_ha=pl.lit(None, pl.Float64)))
    assert "field" not in set(label_rows("yield", params, seasons, tmp_path)["site"])


def test_a_season_counts_up_to_its_first_missing_morning(tmp_path):
    rows = sent(2008)
    file = put(tmp_path, rows.filter(pl.col("days_after_sowing") != 40).sample(fraction=1.0, shuffle=True, seed=1))
    found = field_rows(file)
    assert found["days_after_sowing"].to_list() == list(range(40))
    late = put(tmp_path, rows.filter(pl.col("days_after_sowing") > 0))
    assert field_rows(late).height == 0


def test_what_was_sent_twice_counts_once(tmp_path):
    rows = sent(2008)
    assert field_rows(put(tmp_path, pl.concat([rows, rows]))).equals(field_rows(put(tmp_path, rows)))


@pytest.mark.parametrize("changes", [{"site": pl.lit("champion")}, {"crop": pl.lit("wheat")}])
def test_a_file_of_something_else_is_refused(tmp_path, changes):
    file = put(tmp_path, sent(2008).with_columns(**changes))
    with pytest.raises(FieldDataError, match=r"2008\.parquet"):
        field_rows(file)


def test_a_damaged_or_misplaced_file_is_named(tmp_path):
    file = put(tmp_path, sent(2008))
    file.path.write_bytes(file.path.read_bytes()[:-20])
    with pytest.raises(FieldDataError, match="dvc checkout"):
        field_rows(file)
    (tmp_path / "stray.parquet").write_bytes(b"")
    with pytest.raises(FieldDataError, match="stray"):
        field_files(tmp_path)


def test_its_features_are_those_of_the_device_and_its_windows_stand_behind_them(tmp_path, seasons, params):
    field = tmp_path / "field"
    rows = sent(2008).with_columns(lai=pl.lit(None, pl.Float64))
    put(field, rows)
    build(seasons, tmp_path / "features", field)
    derived = pl.read_parquet(tmp_path / "features/maize/field/2008.parquet").select(f"x_{n}" for n in NAMES)
    values = rows.select(pl.col(name).fill_null(float("nan")) for name in COLUMNS).to_numpy()
    device = derive(clean(Records("maize", date(2008, 4, 28), np.ascontiguousarray(values)))[0])
    assert derived.to_numpy().tobytes() == device.tobytes()
    labels = label_rows("yield", params, seasons, field)
    write_windows("yield", params, labels, tmp_path / "features", tmp_path / "windows")
    index, split = (np.load(tmp_path / "windows" / f"{name}.npy") for name in ("index", "split"))
    again, counts = np.unique(index, return_counts=True)
    assert again.size == labels.height
    assert counts.max() == 1  # 70 of some 800 windows are more than their share already
    assert split.size == labels.height


def test_a_few_windows_count_for_something_and_many_for_themselves():
    split = np.zeros(10_000, np.uint8)
    for field, least, most in ((20, 20 * MOST_REPEATS, 20 * MOST_REPEATS), (200, 400, 600), (5000, 5000, 5000)):
        from_field = np.arange(10_000) < field
        found = int(from_field[repeated(from_field, split)].sum())
        assert least <= found <= most
    assert 400 < FIELD_SHARE / (1 - FIELD_SHARE) * 9800 < 600
    validating = np.array([0, 0, 1, 1], np.uint8)
    assert set(repeated(np.array([False, True, False, True]), validating)[4:].tolist()) <= {1}
    assert repeated(np.zeros(5, bool), split[:5]).tolist() == [0, 1, 2, 3, 4]
