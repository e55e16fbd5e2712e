"""Nothing of the season being prepared, or later, reaches training."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from headland_edge.features import FEATURES

from tasks.crops.fields import draw_fields
from tasks.features.derive import build
from tasks.features.labels import label_rows, refuse_future
from tasks.features.windows import write_windows
from tasks.seasons.generate import season_file, update_season
from tests.conftest import made_up_weather


@pytest.fixture(scope="module")
def seasons(tmp_path_factory, params):
    root = tmp_path_factory.mktemp("seasons")
    for season in range(2003, 2012):
        weather = made_up_weather("champion", season)
        fields = draw_fields("maize", "champion", [season], 1, params.fields.maize, params.seed)
        update_season(season_file(root, "maize", "champion", season), fields, weather, params, "code")
    return root


@pytest.fixture(scope="module")
def labels(seasons, params):
    return label_rows("irrigation", params, seasons)


def test_no_label_lies_at_or_after_as_of(labels, params):
    assert labels["season"].max() == params.as_of - 1
    assert set(labels["split"]) == {"train", "validation"}
    seasons = {split: set(part["season"]) for (split,), part in labels.group_by("split")}
    assert not seasons["train"] & seasons["validation"]


def test_an_earlier_as_of_sees_less(seasons, params):
    earlier = label_rows("irrigation", params.model_copy(update={"as_of": 2008}), seasons)
    assert earlier["season"].max() == 2007


def test_a_row_of_the_future_is_refused(labels, params):
    smuggled = pl.concat([labels, labels.head(1).with_columns(season=pl.lit(2009, pl.Int32))])
    with pytest.raises(ValueError, match="2009"):
        refuse_future(smuggled, params)


def test_windows_hold_history_of_their_own_field_only(tmp_path, seasons, labels, params):
    build(seasons, tmp_path / "features")
    target = tmp_path / "windows"
    count = write_windows("irrigation", params, labels, tmp_path / "features", target)
    features, index = np.load(target / "features.npy", mmap_mode="r"), np.load(target / "index.npy")
    days = params.model["irrigation"].window_days
    grown = [feature.name for feature in FEATURES].index("grown")
    since = [feature.name for feature in FEATURES].index("days_after_sowing")
    assert count == labels.height == index.size
    for last in index[:: max(1, index.size // 50)]:
        window = features[last - days + 1 : last + 1]
        real = window[window[:, grown] == 1.0]
        steps = np.diff(real[:, since] * 150.0)
        np.testing.assert_allclose(steps, 1.0, atol=1e-3)
        assert not np.any(window[window[:, grown] == 0.0])


def test_windows_are_the_same_bytes_each_time(tmp_path, seasons, labels, params):
    build(seasons, tmp_path / "features")
    for name in ("a", "b"):
        write_windows("irrigation", params, labels, tmp_path / "features", tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert json.loads((tmp_path / "a/meta.json").read_text())["window_days"] == params.model["irrigation"].window_days


def test_features_of_later_seasons_do_not_change_windows(tmp_path, seasons, labels, params):
    build(seasons, tmp_path / "features")
    write_windows("irrigation", params, labels, tmp_path / "features", tmp_path / "a")
    for season in (2009, 2010, 2011):
        (tmp_path / "features/maize/champion" / f"{season}.parquet").unlink()
    write_windows("irrigation", params, labels, tmp_path / "features", tmp_path / "b")
    assert (tmp_path / "a/features.npy").read_bytes() == (tmp_path / "b/features.npy").read_bytes()


def test_no_season_before_as_of_is_said(tmp_path, params):
    with pytest.raises(ValueError, match="no season of maize"):
        label_rows("irrigation", params, tmp_path)
