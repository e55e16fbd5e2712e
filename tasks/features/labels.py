"""Stage: what each model shall learn to say, from training seasons only.

This is the one place where truth columns are read for training. Rows of test seasons are dropped by season
before anything else is looked at, and the result is refused if one slipped through. What came back from the field
joins the training seasons of a model of the yield, by the same rule: seasons before ``as_of`` only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from tasks import params as params_module
from tasks.durable import replacing, write_json
from tasks.features.derive import read_columns
from tasks.features.field import FIELD, FIELD_SITE, HARVEST, TARGET, field_files, field_rows
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


def label_rows(model: str, params: Params, root: Path, field: Path = FIELD) -> pl.DataFrame:
    """Targets of ``model`` for training and validation seasons.

    Args:
        model: its name.
        params: of the project.
        root: folder of simulated seasons.
        field: folder of field data; its seasons before as_of are for training.

    Returns:
        LABEL_KEYS, ``target`` in the target's own unit, ``split`` ("train" or "validation"), ``year`` of sowing; rows
        without a target are left out.

    Raises:
        LabelError: no season before as_of, or a row at or after as_of.
        FieldDataError: field data that cannot be learned from.
    """
    settings = params.model[model]
    truth = TRUTH_PREFIX + settings.target
    parts = []
    files = season_files(root, settings.crops)
    validation: set[tuple[str, int]] = set()
    for site in {entry[1] for entry in files}:
        split = params.split(site, sorted({entry[2] for entry in files if entry[1] == site}))
        chosen = {**dict.fromkeys(split.train, "train"), **dict.fromkeys(split.validation, "validation")}
        for crop, name, season, file in files:
            if name == site and season in chosen:
                validation |= {(crop, season)} if chosen[season] == "validation" else set()
                rows = read_columns(file, (*LABEL_KEYS, truth)).rename({truth: "target"})
                parts.append(rows.with_columns(split=pl.lit(chosen[season]), year=pl.col("season")))
    if not parts:
        raise LabelError(
            f"{model}: no season of {', '.join(settings.crops)} lies before as_of {params.as_of}. "
            "Choose a later as_of in params.yaml."
        )
    if settings.target == TARGET:
        parts += field_labels(params, settings.crops, field, held_out_years(params, files), validation)
    rows = pl.concat(parts).drop_nulls("target").sort(LABEL_KEYS)
    refuse_future(rows, params)
    return rows


def held_out_years(params: Params, files: list[tuple[str, str, int, Path]]) -> set[tuple[str, int]]:
    """Crops and calendar years that some site keeps for its test seasons, or for later still."""
    return {(crop, season) for crop, site, season, _ in files if season >= first_unseen(params, site)}


def field_labels(
    params: Params,
    crops: tuple[str, ...],
    root: Path,
    held_out: set[tuple[str, int]],
    validation: set[tuple[str, int]],
) -> list[pl.DataFrame]:
    """Harvests weighed on fields of ``crops`` in seasons before as_of, one frame a file.

    A field sown in a calendar year that is held out for its crop is left out whatever season it claims: its weather
    may be that of a test season. In a calendar year of ``validation`` it validates, as that year's other fields do.
    """
    parts = []
    for file in field_files(root):
        if file.crop in crops and file.season < first_unseen(params, FIELD_SITE):
            rows = field_rows(file).with_columns(year=pl.col("sowing_date").dt.year())
            known = rows.filter(~pl.col("year").is_in(sorted(year for crop, year in held_out if crop == file.crop)))
            validates = pl.col("year").is_in(sorted(year for crop, year in validation if crop == file.crop))
            split = pl.when(validates).then(pl.lit("validation")).otherwise(pl.lit("train"))
            parts.append(known.select(*LABEL_KEYS, target=HARVEST, split=split, year="year"))
    return parts


def without_trend(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Trend]]:
    """Divide each crop's targets by its trend; returns the rows and the trends by crop.

    The trend is read off the company's own seasons: fields that sent something are too few, and are no fair sample of
    the good ones.
    """
    own = rows.filter(pl.col("site") != FIELD_SITE).sort("crop")
    trends = {str(crop): trend_of(part) for (crop,), part in own.group_by("crop", maintain_order=True)}
    factor = [trends[crop].factor(year) for crop, year in rows.select("crop", "year").iter_rows()]
    return rows.with_columns(target=pl.col("target") / pl.Series(factor)), trends


def refuse_future(rows: pl.DataFrame, params: Params) -> None:
    """Raise LabelError if any row belongs to a season at or after as_of at its site."""
    for (site,), part in rows.group_by("site"):
        unseen = first_unseen(params, str(site))
        late = part.filter(pl.col("season") >= unseen)
        if late.height:
            raise LabelError(
                f"{late.height} rows of {site} lie in or after season {unseen}: they may not be trained on"
            )


def first_unseen(params: Params, site: str) -> int:
    """The first season of ``site`` that nothing may be learned from."""
    return params.as_of if site == FIELD_SITE else params.season_of(site)


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
        rows.drop("year").write_parquet(aside, compression="zstd")
    returned = rows.filter(pl.col("site") == FIELD_SITE)["field_id"].n_unique()
    from_field = f", {returned} of them back from the field" if returned else ""
    print(f"labels of {model}: {rows.height} mornings of {rows['field_id'].n_unique()} field seasons{from_field}")


if __name__ == "__main__":
    end_of_stage(main)
