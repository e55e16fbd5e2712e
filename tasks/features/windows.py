"""Stage: windows of history, gathered from memory-mapped arrays and never written out.

A folder for each model holds ``features.npy`` (float32, field seasons one after the other, each preceded by
``window_days - 1`` rows of zeros: the days before sowing), ``index.npy`` (int64: the row of each window's last
morning), ``targets.npy`` (float32, scaled), ``split.npy`` (uint8: 0 train, 1 validation), ``group.npy`` (int32:
the season, by which left-out seasons are told apart) and ``meta.json``.

Windows of field data stand in the index several times, so that a few records count for something beside decades of
simulated seasons, and not more: however many fields it was seen on, a season is one draw of the weather.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from headland_edge.features import FEATURES_VERSION
from numpy.typing import NDArray

from tasks import params as params_module
from tasks.durable import replacing_dir, write_json
from tasks.features.derive import FEATURES_ROOT, NAMES, read_columns
from tasks.features.field import FIELD_SITE
from tasks.features.labels import LABEL_KEYS, LABELS, refuse_future
from tasks.params import Params
from tasks.stage_main import end_of_stage, model_named

PARAMS = ("as_of", "sites", "model")
WINDOWS = Path("data/windows")
FIELD_SHARE = 0.05
"""Of all training windows, what field data are brought to, if ``MOST_REPEATS`` allow it."""
MOST_REPEATS = 10
_SPLITS = {"train": 0, "validation": 1}


def labelled_features(labels: pl.DataFrame, root: Path) -> list[pl.DataFrame]:
    """Features of each labelled field season, all its mornings, with the target where there is one."""
    parts: list[pl.DataFrame] = []
    seasons = labels.select("crop", "site", "season").unique().sort("crop", "site", "season")
    for crop, site, season in seasons.iter_rows():
        rows = read_columns(root / crop / site / f"{season}.parquet", (*LABEL_KEYS, *(f"x_{name}" for name in NAMES)))
        here = labels.filter(pl.col("crop") == crop, pl.col("site") == site, pl.col("season") == season)
        joined = rows.join(
            here.select("field_id", "days_after_sowing", "target", "split"),
            on=["field_id", "days_after_sowing"],
            how="left",
        )
        ordered = joined.sort("field_id", "days_after_sowing")
        parts.extend(field for _, field in ordered.group_by("field_id", maintain_order=True))
    return parts


def write_windows(
    model: str, params: Params, labels: pl.DataFrame, features: Path, target: Path, trends: dict[str, Any] | None = None
) -> int:
    """Write the arrays of ``model`` into ``target``; returns the number of windows.

    Args:
        model: its name.
        params: of the project.
        labels: its targets.
        features: folder of feature files.
        target: folder to write.
        trends: by crop, what was taken out of the targets.
    """
    settings = params.model[model]
    refuse_future(labels, params)
    pad = settings.window_days - 1
    blocks, index, targets, split, group = [], [], [], [], []
    from_field: list[bool] = []
    row = 0
    for field in labelled_features(labels, features):
        values = field.select(f"x_{name}" for name in NAMES).to_numpy().astype(np.float32)
        labelled = np.flatnonzero(field["target"].is_not_null().to_numpy())
        blocks.append(np.vstack([np.zeros((pad, len(NAMES)), np.float32), values]))
        index.append(row + pad + labelled)
        targets.append((field["target"].to_numpy()[labelled] - settings.offset) / settings.scale)
        split.append(field["split"].replace_strict(_SPLITS, default=None).to_numpy()[labelled])
        group.append(field["season"].to_numpy()[labelled])
        from_field.append(field["site"][0] == FIELD_SITE)
        row += pad + values.shape[0]
    arrays = {
        "features": np.vstack(blocks),
        "index": np.concatenate(index).astype(np.int64),
        "targets": np.concatenate(targets).astype(np.float32),
        "split": np.concatenate(split).astype(np.uint8),
        "group": np.concatenate(group).astype(np.int32),
    }
    windows = repeated(np.repeat(from_field, [part.size for part in index]), arrays["split"])
    arrays |= {name: arrays[name][windows] for name in ("index", "targets", "split", "group")}
    with replacing_dir(target) as aside:
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array, allow_pickle=False)
        write_json(aside / "meta.json", _meta(model, params, trends or {}))
    return int(arrays["index"].size)


def repeated(from_field: NDArray[np.bool_], split: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which windows to list, those that are learned from field data again at the end.

    Args:
        from_field: shape (n,), whether a window is of field data.
        split: shape (n,).
    """
    learned = from_field & (split == 0)
    ours, theirs = int((~from_field & (split == 0)).sum()), int(learned.sum())
    wanted = FIELD_SHARE / (1 - FIELD_SHARE) * ours
    times = min(max(1, round(wanted / theirs)), MOST_REPEATS) if theirs else 1
    return np.concatenate([np.arange(split.size), np.tile(np.flatnonzero(learned), times - 1)]).astype(np.int64)


def _meta(model: str, params: Params, trends: dict[str, Any]) -> dict[str, object]:
    settings = params.model[model]
    return {
        "model": model,
        "channels": list(NAMES),
        "features_version": FEATURES_VERSION,
        "window_days": settings.window_days,
        "target": {"name": settings.target, "unit": settings.unit, "offset": settings.offset, "scale": settings.scale},
        "trends": trends,
    }


def main() -> None:
    """Run the stage for the model named on the command line."""
    params = params_module.load()
    model = model_named(sys.argv, params.model)
    labels = pl.read_parquet(LABELS / f"{model}.parquet")
    trends = json.loads((LABELS / f"{model}.trend.json").read_text())
    count = write_windows(model, params, labels, FEATURES_ROOT, WINDOWS / model, trends)
    print(f"windows of {model}: {count}")


if __name__ == "__main__":
    end_of_stage(main)
