"""Stage: what each model shall learn to say, from training seasons only.

This is the one place where truth columns are read for training. Rows of test seasons are dropped by season
before anything else is looked at, and the result is refused if one slipped through.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from tasks import params as params_module
from tasks.durable import replacing, write_json
from tasks.features.derive import read_columns
from tasks.features.trend import Trend, trend_of
from tasks.params import Params
from tasks.seasons.generate import SEASONS
from tasks.seasons.schema import TRUTH_PREFIX
from tasks.stage_main import end_of_stage, model_named

PARAMS = ("as_of", "test_seasons", "validation_every", "sites", "model")
LABELS = Path("data/labels")
LABEL_KEYS = ("crop", "site", "season", "field_id", "days_after_sowing")


class LabelError(ValueError):
    """No targets can be made, or some would come from the future; the message says which and what to do."""


def season_files(root: Path, crops: tuple[str, ...]) -> list[tuple[str, str, int, Path]]:
    """All season files of ``crops`` below ``root`` as (crop, site, season, file), in a fixed order."""
    found = []
    for file in sorted(root.rglob("*.parquet")):
        crop, site = file.parts[-3], file.parts[-2]
        if crop in crops:
            found.append((crop, site, int(file.stem), file))
    return sorted(found)


def label_rows(model: str, params: Params, root: Path) -> pl.DataFrame:
    """Targets of ``model`` for training and validation seasons.

    Returns:
        LABEL_KEYS, ``target`` in the target's own unit, ``split`` ("train" or "validation"); rows without a
        target are left out.

    Raises:
        LabelError: no season before as_of, or a row at or after as_of.
    """
    settings = params.model[model]
    truth = TRUTH_PREFIX + settings.target
    parts = []
    files = season_files(root, settings.crops)
    for site in {entry[1] for entry in files}:
        split = params.split(site, sorted({entry[2] for entry in files if entry[1] == site}))
        chosen = {**dict.fromkeys(split.train, "train"), **dict.fromkeys(split.validation, "validation")}
        for _, name, season, file in files:
            if name == site and season in chosen:
                rows = read_columns(file, (*LABEL_KEYS, truth)).rename({truth: "target"})
                parts.append(rows.with_columns(split=pl.lit(chosen[season])))
    if not parts:
        raise LabelError(
            f"{model}: no season of {', '.join(settings.crops)} lies before as_of {params.as_of}. "
            "Choose a later as_of in params.yaml."
        )
    rows = pl.concat(parts).drop_nulls("target").sort(LABEL_KEYS)
    refuse_future(rows, params)
    return rows


def without_trend(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Trend]]:
    """Divide each crop's targets by its trend; returns the rows and the trends by crop."""
    trends = {str(crop): trend_of(part) for (crop,), part in rows.sort("crop").group_by("crop", maintain_order=True)}
    factor = [trends[crop].factor(season) for crop, season in rows.select("crop", "season").iter_rows()]
    return rows.with_columns(target=pl.col("target") / pl.Series(factor)), trends


def refuse_future(rows: pl.DataFrame, params: Params) -> None:
    """Raise LabelError if any row belongs to a season at or after as_of at its site."""
    for (site,), part in rows.group_by("site"):
        first_unseen = params.season_of(str(site))
        late = part.filter(pl.col("season") >= first_unseen)
        if late.height:
            raise LabelError(
                f"{late.height} rows of {site} lie in or after season {first_unseen}: they may not be trained on"
            )


def main() -> None:
    """Run the stage for the model named on the command line."""
    params = params_module.load()
    model = model_named(sys.argv, params.model)
    rows = label_rows(model, params, SEASONS)
    trends: dict[str, Trend] = {}
    if params.model[model].detrend:
        rows, trends = without_trend(rows)
    write_json(LABELS / f"{model}.trend.json", {crop: trend.as_dict() for crop, trend in trends.items()})
    with replacing(LABELS / f"{model}.parquet") as aside:
        rows.write_parquet(aside, compression="zstd")
    print(f"labels of {model}: {rows.height} mornings of {rows['field_id'].n_unique()} field seasons")


if __name__ == "__main__":
    end_of_stage(main)
