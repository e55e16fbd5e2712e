"""What each shipped model says on seasons it never saw, beside the truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from headland_edge.bundle import Bundle
from headland_edge.features import clean, derive, window
from headland_edge.manifest import Target
from headland_edge.records import COLUMNS
from headland_edge.runtime import Session
from numpy.typing import NDArray

from tasks.crops.interface import FloatArray
from tasks.evaluation.statistics import band, pinball
from tasks.features.derive import read_columns, records_of
from tasks.features.labels import season_files
from tasks.params import Params
from tasks.seasons.schema import KEYS, TRUTH_PREFIX

QUANTILES = ("q10", "q50", "q90")
LEVELS = (0.1, 0.5, 0.9)
# Mid-season: canopy closed, grain not yet set; days after sowing of maize, after emergence of wheat.
MID_SEASON_DAYS = {"maize": (55, 80), "wheat": (45, 70)}


def predict(bundle: Bundle, model: str, rows: pl.DataFrame, truth: str) -> pl.DataFrame:
    """Run ``model`` on every morning of the field seasons in ``rows``, batched, by the device's own runtime.

    Args:
        bundle: opened and verified.
        model: its name.
        rows: KEYS, record columns and ``truth``.
        truth: name of the truth column.

    Returns:
        KEYS, ``truth``, q10, q50, q90 in the target's unit.
    """
    entry = bundle.manifest.models[model]
    session, target = Session(bundle.model_bytes(model), model), entry.target
    parts = []
    for _, field in rows.sort("field_id", "days_after_sowing").group_by("field_id", maintain_order=True):
        features = derive(clean(records_of(field))[0])
        windows = np.stack([window(features, end, entry.window_days) for end in range(features.shape[0])])
        quantiles = target.quantiles(session.run(windows), field["crop"][0], int(field["season"][0]))
        said = {name: quantiles[:, i].astype(np.float64) for i, name in enumerate(QUANTILES)}
        parts.append(
            field.select(*KEYS, pl.col(truth).alias("truth")).with_columns(**{k: pl.Series(v) for k, v in said.items()})
        )
    return pl.concat(parts).with_columns(model=pl.lit(model))


def test_rows(root: Path, model: str, params: Params) -> pl.DataFrame:
    """Daily rows of the test seasons of the sites where the model's crops are grown."""
    settings = params.model[model]
    files = season_files(root, settings.crops)
    parts = []
    for site in sorted({entry[1] for entry in files}):
        test = params.split(site, [entry[2] for entry in files if entry[1] == site]).test
        for _, name, season, file in files:
            if name == site and season in test:
                parts.append(read_columns(file, (*KEYS, *COLUMNS, TRUTH_PREFIX + settings.target)))
    return pl.concat(parts).drop_nulls(TRUTH_PREFIX + settings.target)


def scores(rows: pl.DataFrame) -> dict[str, float]:
    """Pinball loss and error of the median in the target's unit, coverage and width of the 10-90 % band."""
    truth, quantiles = rows["truth"].to_numpy(), rows.select(QUANTILES).to_numpy()
    return {
        "pinball": pinball(truth, quantiles),
        "mae": float(np.abs(truth - quantiles[:, 1]).mean()),
        **band(truth, quantiles),
        "mornings": rows.height,
    }


def scores_by(rows: pl.DataFrame, column: str) -> dict[str, dict[str, float]]:
    """``scores`` of each value of ``column``."""
    return {str(name): scores(part) for (name,), part in rows.sort(column).group_by(column, maintain_order=True)}


def at_mid_season(rows: pl.DataFrame) -> pl.DataFrame:
    """Those rows that lie in the middle of their crop's season."""
    return pl.concat(
        rows.filter(pl.col("crop") == crop, pl.col("days_after_sowing").is_between(first, last))
        for crop, (first, last) in MID_SEASON_DAYS.items()
    )


def mid_season(
    rows: pl.DataFrame, climatology: dict[str, tuple[FloatArray, FloatArray]], target: Target
) -> dict[str, dict[str, float]]:
    """Yield bands at mid-season against climatology's: the same quantiles of the training seasons' yields.

    Climatology knows the trend as the model does: past yields are brought to the level of the season they are held
    against. ``raw_climatology_…`` is the same without it.

    Args:
        rows: predictions of the yield model.
        climatology: by crop, yields of the training seasons' fields, t/ha, and the season of each.
        target: of the yield model, with each crop's trend.
    """
    found = {}
    middle = at_mid_season(rows)
    for crop in MID_SEASON_DAYS:
        part = middle.filter(pl.col("crop") == crop)
        if part.height:
            truth, season = part["truth"].to_numpy(), part["season"].to_numpy()
            yields, years = climatology[crop]
            raw = np.tile(np.quantile(yields, LEVELS), (part.height, 1))
            level = np.quantile(yields / growth(target, crop, years), LEVELS)
            known = level * growth(target, crop, season)[:, None]
            found[crop] = {
                **scores(part),
                **{f"climatology_{k}": v for k, v in {**band(truth, known), "pinball": pinball(truth, known)}.items()},
                **{f"raw_climatology_{k}": v for k, v in {**band(truth, raw), "pinball": pinball(truth, raw)}.items()},
            }
    return found


def growth(target: Target, crop: str, seasons: NDArray[Any]) -> FloatArray:
    """The trend's factor in each season; 1 for a crop without a trend."""
    calibration = target.calibration.get(crop)
    return np.array([calibration.growth(int(season)) if calibration else 1.0 for season in seasons])


def training_yields(root: Path, crops: Iterable[str], params: Params) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Yields of the training and validation seasons' fields by crop, t/ha, and the season of each."""
    yields: dict[str, tuple[FloatArray, FloatArray]] = {}
    for crop in crops:
        files = season_files(root, (crop,))
        parts: list[FloatArray] = []
        years: list[FloatArray] = []
        for site in sorted({entry[1] for entry in files}):
            split = params.split(site, [entry[2] for entry in files if entry[1] == site])
            for _, name, season, file in files:
                if name == site and season in (*split.train, *split.validation):
                    rows = read_columns(file, ("field_id", "truth_yield_t_ha")).unique("field_id")
                    parts.append(rows["truth_yield_t_ha"].to_numpy())
                    years.append(np.full(rows.height, float(season)))
        yields[crop] = np.concatenate(parts), np.concatenate(years)
    return yields
