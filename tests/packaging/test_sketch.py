"""The sketch in the bundle: the same bytes each time, calm on seasons it did not see, awake on foreign ones."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest
from headland_edge.features import FEATURES, derive
from headland_edge.records import COLUMNS, Records
from headland_edge.sketch import BINS, LEVELS, MAX_BYTES, parse_sketch

from tasks.packaging.sketch import field_seasons, make_sketch, sketch_of, target_of
from tasks.training.windows import open_windows
from tests.edge.small_bundle import WINDOW_DAYS, conv_net

MORNINGS, PER_SEASON = 90, 4
TARGET = {
    "name": "yield_t_ha",
    "unit": "t/ha",
    "offset": 0.0,
    "scale": 10.0,
    "calibration": {
        "maize": {
            "reference_season": 1995,
            "last_season": 2018,
            "trend_per_year_frac": 0.0,
            "lower": 1.0,
            "upper": 2.0,
        }
    },
}


def made_up_season(season: int, number: int, taw_mm: float = 120.0) -> Records:
    """Weather that all fields of a season share, and fields that differ."""
    year, field = np.random.default_rng(season), np.random.default_rng((season, number))
    warm, wet = year.normal(0, 2), year.uniform(0.5, 1.5)
    values = np.full((MORNINGS, len(COLUMNS)), np.nan)
    days = np.arange(MORNINGS)
    made = {
        "rain_mm": year.gamma(0.3, 8.0, MORNINGS) * wet,
        "et0_mm": 3 + 2 * days / MORNINGS + field.normal(0, 0.3, MORNINGS),
        "tmin_c": 8 + warm + field.normal(0, 1, MORNINGS),
        "tmax_c": 22 + warm + field.normal(0, 1, MORNINGS),
        "irrigation_mm": np.where(days % 10 == number, 20.0, 0.0),
        "nitrogen_kg_ha": np.zeros(MORNINGS),
        "depletion_frac": np.clip(0.3 + field.normal(0, 0.1) + field.normal(0, 0.03, MORNINGS), 0, 1),
        "taw_mm": np.full(MORNINGS, taw_mm + 5 * number),
        "lai": np.linspace(0.1, 4.0, MORNINGS) * field.uniform(0.8, 1.2),
    }
    for name, column in made.items():
        values[:, COLUMNS.index(name)] = column
    values[field.random(values.shape) < 0.05] = np.nan
    return Records("maize", date(season, 5, 1), values)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Windows of twelve seasons, every fourth left out."""
    folder = tmp_path_factory.mktemp("windows") / "yield"
    folder.mkdir()
    pad, blocks, index, split, group = WINDOW_DAYS - 1, [], [], [], []
    row = 0
    for season in range(1997, 2009):
        for number in range(PER_SEASON):
            blocks += [np.zeros((pad, len(FEATURES)), np.float32), derive(made_up_season(season, number))]
            index.append(row + pad + np.arange(MORNINGS))
            split.append(np.full(MORNINGS, season % 4 == 0))
            group.append(np.full(MORNINGS, season))
            row += pad + MORNINGS
    arrays = {
        "features": np.vstack(blocks),
        "index": np.concatenate(index).astype(np.int64),
        "targets": np.ones(len(index) * MORNINGS, np.float32),
        "split": np.concatenate(split).astype(np.uint8),
        "group": np.concatenate(group).astype(np.int32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    target = {key: TARGET[key] for key in ("name", "unit", "offset", "scale")}
    channels = [feature.name for feature in FEATURES]
    meta = {"channels": channels, "window_days": WINDOW_DAYS, "target": target}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder.parent


def test_field_seasons_come_back_out_of_the_windows(root):
    found = list(field_seasons(open_windows(root / "yield")))
    assert len(found) == 12 * PER_SEASON
    assert {(each.crop, len(each.features)) for each in found} == {("maize", MORNINGS)}
    assert sum(not each.is_training for each in found) == 3 * PER_SEASON
    np.testing.assert_array_equal(found[5].features, derive(made_up_season(1998, 1)))


def test_the_sketch_is_small_and_the_same_bytes_each_time(root):
    models, onnx = {"yield": {"target": TARGET}}, {"yield": conv_net(1)}
    data = make_sketch(root, models, onnx)
    assert data == make_sketch(root, models, onnx)
    assert len(data) < MAX_BYTES / 8
    sketch = parse_sketch(data)["maize"]
    widths = sketch.widths["yield_t_ha"]
    assert widths.shape == (BINS, len(LEVELS))
    assert (widths > 0).all()


def test_widths_are_those_of_the_calibrated_band(root):
    onnx = {"yield": conv_net(quantiles=(0.3, 0.5, 0.6))}
    sketch = parse_sketch(make_sketch(root, {"yield": {"target": TARGET}}, onnx))["maize"]
    np.testing.assert_allclose(sketch.widths["yield_t_ha"], 10.0 * (0.2 + 2.0 * 0.1), rtol=1e-3)
    assert target_of(TARGET).calibration["maize"].upper == 2.0


def test_seasons_like_those_of_training_stay_calm_and_foreign_fields_drift(root):
    sketch = sketch_of(list(field_seasons(open_windows(root / "yield"))), {})
    calm = [sketch.drifts(derive(made_up_season(season, n))) for season in range(2009, 2024) for n in range(PER_SEASON)]
    alarms = sum(any(state.drifting for state in states) for states in calm)
    assert alarms <= 0.1 * len(calm)
    foreign = [
        sketch.drifts(derive(made_up_season(season, 1, taw_mm=300.0)))[-1].drifting for season in range(2009, 2019)
    ]
    assert all(foreign)


def test_novelty_is_spread_evenly_over_seasons_that_the_fit_did_not_see(root):
    sketch = sketch_of(list(field_seasons(open_windows(root / "yield"))), {})
    seasons = [made_up_season(season, n) for season in range(2030, 2060) for n in range(PER_SEASON)]
    found = np.concatenate([sketch.novelties(derive(records)) for records in seasons])
    assert 0.35 < np.median(found) < 0.65
    assert np.mean(found > 0.9) < 0.25
