"""The peer of the yield net sees what a window holds, and answers the very mornings it is asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from headland_edge.features import FEATURES

from benchmarks.yields import MEANS_DAYS, asked, inputs_of


def test_inputs_are_this_morning_and_means_of_the_last_ones():
    windows = np.arange(2 * 3 * 64, dtype=np.float32).reshape(2, 3, 64)
    found = inputs_of(windows)
    assert found.shape == (2, 3 * (1 + len(MEANS_DAYS)))
    assert found[1, :3].tolist() == windows[1, :, -1].tolist()
    assert found[1, 3] == pytest.approx(windows[1, 0, -8:].mean())
    assert found[1, -1] == pytest.approx(windows[1, 2].mean())


def test_mornings_are_answered_in_their_order_from_their_own_field(tmp_path: Path):
    days = 12
    columns = [f"x_{feature.name}" for feature in FEATURES]
    frames = [
        pl.DataFrame({"field_id": [name] * days, "days_after_sowing": range(days)}).with_columns(
            pl.lit(base).add(pl.col("days_after_sowing")).cast(pl.Float32).alias(column) for column in columns
        )
        for name, base in (("b", 100.0), ("a", 0.0))
    ]
    folder = tmp_path / "maize" / "home"
    folder.mkdir(parents=True)
    pl.concat(frames).write_parquet(folder / "2009.parquet")
    rows = pl.DataFrame(
        {
            "crop": ["maize"] * 4,
            "site": ["home"] * 4,
            "season": [2009] * 4,
            "field_id": ["a", "a", "b", "b"],
            "days_after_sowing": [3, 9, 0, 11],
        }
    )
    found = asked(rows, tmp_path, 64)
    assert found[:, 0].tolist() == [3.0, 9.0, 100.0, 111.0]
    # Before sowing a window holds zeros, as the net's does.
    assert found[2, -1] == pytest.approx(100.0 / 64)
