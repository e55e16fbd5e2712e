"""Is the yield net worth its convolutions? It and gradient boosting, on the same windows, judged on the same mornings.

``python -m benchmarks.yields`` in a folder where the pipeline has run prints JSON and writes
``metrics/bench/yields.json``. It ends with 1 if the net is not below gradient boosting for some crop.

Both learn from the windows of training seasons. The net is the one that ships, int8 and calibrated, as
``data/evaluation/predictions.parquet`` holds its answers; the peer is scikit-learn's ``HistGradientBoostingRegressor``,
one for each quantile and crop, on what a window holds: each channel's value this morning and its means over the last 8,
16, 32 and 64 mornings. Judged is the pinball loss, t/ha, on mornings between closed canopy and grain set of test
seasons; the error is that of the mean over seasons. Crops are simulated on observed weather.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from headland_edge.bundle import open_bundle
from headland_edge.features import FEATURES, window
from headland_edge.manifest import Target
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from benchmarks.machine import describe
from tasks.durable import write_json
from tasks.evaluation.predictions import LEVELS, QUANTILES, at_mid_season, growth
from tasks.evaluation.statistics import band, pinball
from tasks.params import load
from tasks.training.windows import Windows, open_windows

MODEL = "yield"
MEANS_DAYS = (8, 16, 32, 64)
MOST_WINDOWS = 40_000
"""Of a crop, that boosting learns from, drawn at random."""
SETTINGS: dict[str, Any] = {
    "max_iter": 200,
    "learning_rate": 0.05,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 100,
    "l2_regularization": 1.0,
}
Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]


def inputs_of(windows: Float32Array) -> Float32Array:
    """What boosting sees of windows [n, channels, days]: [n, channels * (1 + len(MEANS_DAYS))]."""
    means = [windows[:, :, -days:].mean(axis=2) for days in MEANS_DAYS]
    return np.concatenate([windows[:, :, -1], *means], axis=1)


def learned_from(windows: Windows, crop: str, seed: int) -> tuple[Float32Array, Array]:
    """Inputs and scaled targets of a crop's windows of training seasons."""
    wheat = windows.features[windows.index[windows.training], windows.channels.index("is_wheat")] > 0.5
    own = windows.training[wheat == (crop == "wheat")]
    drawn = np.sort(np.random.default_rng(seed).permutation(own)[:MOST_WINDOWS])
    parts = [inputs_of(windows.gather(part)) for part in np.array_split(drawn, max(1, drawn.size // 4096))]
    return np.concatenate(parts), windows.targets[drawn].astype(np.float64)


def asked(rows: pl.DataFrame, features: Path, window_days: int) -> Float32Array:
    """Inputs of the mornings of ``rows``, in their order.

    Args:
        rows: crop, site, season, field_id, days_after_sowing; of one crop, sorted.
        features: folder of the features stage.
        window_days: of the net.
    """
    columns = [f"x_{feature.name}" for feature in FEATURES]
    found = []
    for (crop, site, season), part in rows.group_by("crop", "site", "season", maintain_order=True):
        file = pl.read_parquet(features / str(crop) / str(site) / f"{season}.parquet")
        file = file.sort("field_id", "days_after_sowing")
        for (field,), mornings in part.group_by("field_id", maintain_order=True):
            of_field = file.filter(pl.col("field_id") == field).select(columns).to_numpy().astype(np.float32)
            ends = mornings["days_after_sowing"].to_list()
            found.append(inputs_of(np.stack([window(of_field, end, window_days) for end in ends])))
    return np.concatenate(found)


def compared(
    crop: str, rows: pl.DataFrame, target: Target, windows: Windows, features: Path, seed: int
) -> dict[str, Any]:
    """Figures of one crop."""
    inputs, targets = learned_from(windows, crop, seed)
    here = asked(rows, features, windows.window_days)
    said = [
        HistGradientBoostingRegressor(loss="quantile", quantile=level, random_state=seed, **SETTINGS)
        .fit(inputs, targets)
        .predict(here)
        for level in LEVELS
    ]
    truth, season = rows["truth"].to_numpy(), rows["season"].to_numpy()
    scaled = np.sort(np.stack(said, axis=1), axis=1) * windows.target.scale + windows.target.offset
    answers = {
        "net": rows.select(QUANTILES).to_numpy(),
        "gradient_boosting": scaled * growth(target, crop, season)[:, None],
    }
    years = np.unique(season)
    by_season = {
        name: [pinball(truth[season == year], each[season == year]) for year in years] for name, each in answers.items()
    }
    less = np.array(by_season["net"]) - np.array(by_season["gradient_boosting"])
    return {
        "seasons": years.tolist(),
        "mornings": rows.height,
        "windows_learned": len(targets),
        **{
            name: {
                "pinball_t_ha": round(float(np.mean(by_season[name])), 4),
                "coverage_frac": round(band(truth, each)["coverage_frac"], 4),
                "by_season_t_ha": [round(value, 4) for value in by_season[name]],
            }
            for name, each in answers.items()
        },
        "net_less_boosting_t_ha": round(float(less.mean()), 4),
        "net_less_boosting_se_t_ha": round(float(less.std(ddof=1) / less.size**0.5), 4) if less.size > 1 else None,
    }


def main() -> int:
    """Measure and print; 1 if the net is not below gradient boosting for some crop."""
    began, root = time.perf_counter(), Path()
    params = load(root / "params.yaml")
    target = open_bundle(root / "data/bundle" / f"headland-{params.as_of}.tar").manifest.models[MODEL].target
    windows = open_windows(root / "data/windows" / MODEL)
    rows = pl.read_parquet(root / "data/evaluation/predictions.parquet").filter(pl.col("model") == MODEL)
    rows = at_mid_season(rows).sort("crop", "site", "season", "field_id", "days_after_sowing")
    crops = {
        crop: compared(crop, rows.filter(pl.col("crop") == crop), target, windows, root / "data/features", params.seed)
        for crop in params.model[MODEL].crops
    }
    found = {"machine": describe(), "crops": crops, "seconds": round(time.perf_counter() - began, 1)}
    write_json(root / "metrics/bench/yields.json", found)
    print(json.dumps(found, indent=2))
    return 0 if all(each["net_less_boosting_t_ha"] < 0 for each in crops.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
