"""What the report is made from: read once, checked, and what is absent named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from headland_edge.bundle import Bundle, BundleError, open_bundle

from tasks.params import Params
from tasks.report.words import DEVICE
from tasks.sources.daily import SiteWeather, read_sites
from tasks.sources.schema import WeatherError

STUDY = Path("metrics/study.json")


class ReportError(ValueError):
    """The report cannot be made; the message names the file and what to do."""


@dataclass(frozen=True)
class Inputs:
    """Everything the report shows."""

    params: Params
    evaluation: dict[str, Any]
    """``metrics/evaluate.json``."""
    training: dict[str, dict[str, Any]]
    """By model, ``metrics/train``."""
    compression: dict[str, dict[str, Any]]
    """By model, ``metrics/compress``."""
    history: dict[str, pl.DataFrame]
    """By model, losses by epoch; models without a history are absent."""
    cards: dict[str, dict[str, Any]]
    """By site, the weather card."""
    sites: dict[str, SiteWeather]
    bundle: Bundle
    training_usd_ha: dict[str, dict[str, float]]
    """By crop and rule, mean profit on the training seasons it was tuned on; empty if unknown."""
    closed_loop: pl.DataFrame | None
    predictions: pl.DataFrame | None
    diaries: dict[tuple[str, str], pl.DataFrame]
    """Daily rows by crop and policy."""
    study: dict[str, Any] | None = None
    """``metrics/study.json``; None where no study was made."""
    missing: list[str] = field(default_factory=list)
    """What was looked for and not found, for people."""


def gather(root: Path, params: Params) -> Inputs:
    """Read what the stages before the report left below ``root``.

    Raises:
        ReportError: a required file is absent, damaged or of another season.
    """
    evaluation = read_json(root / "metrics/evaluate.json", "evaluate")
    if evaluation.get("as_of") != params.as_of:
        raise ReportError(
            f"{root / 'metrics/evaluate.json'}: is of as_of {evaluation.get('as_of')}, params.yaml asks for "
            f"{params.as_of}. "
            "Run: dvc repro evaluate"
        )
    missing: list[str] = []
    folder = root / "data/evaluation"
    crops = list(evaluation["closed_loop"])
    return Inputs(
        params=params,
        evaluation=evaluation,
        training={m: read_json(root / f"metrics/train/{m}.json", f"train@{m}") for m in params.models},
        compression={m: read_json(root / f"metrics/compress/{m}.json", f"compress@{m}") for m in params.models},
        history=_histories(root, params, missing),
        cards={name: read_json(root / f"data/weather/{name}.json", "weather") for name in params.sites},
        sites=_sites(root, params),
        bundle=_bundle(root, params),
        training_usd_ha=read_json(root / "data/policies.json", "policies").get("training_usd_ha", {}),
        closed_loop=_optional(folder / "closed_loop.parquet", missing),
        predictions=_optional(folder / "predictions.parquet", missing),
        diaries=_diaries(folder, evaluation["closed_loop"], crops, missing),
        study=read_json(root / STUDY, "study") if (root / STUDY).exists() else None,
        missing=missing,
    )


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """A JSON object that ``stage`` must have written."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ReportError(f"{path}: no such file. Run the stage that writes it: dvc repro {stage}") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}). Delete it and run: dvc repro {stage}") from None
    if not isinstance(found, dict):
        raise ReportError(f"{path}: must hold a JSON object. Delete it and run: dvc repro {stage}")
    return found


def _sites(root: Path, params: Params) -> dict[str, SiteWeather]:
    try:
        return read_sites(params, root / "data/weather")
    except WeatherError as error:
        raise ReportError(str(error)) from None


def _bundle(root: Path, params: Params) -> Bundle:
    try:
        return open_bundle(root / f"data/bundle/headland-{params.as_of}.tar")
    except BundleError as error:
        raise ReportError(f"{error}. Make it with: dvc repro bundle") from None


def _optional(path: Path, missing: list[str]) -> pl.DataFrame | None:
    if not path.exists():
        missing.append(path.name)
        return None
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ReportError(
            f"{path}: not a whole Parquet file ({error}). Delete it and run: dvc repro evaluate"
        ) from None


def _histories(root: Path, params: Params, missing: list[str]) -> dict[str, pl.DataFrame]:
    found = {}
    for model in params.models:
        path = root / f"plots/{model}/history.csv"
        if not path.exists():
            missing.append(f"learning curve of {model} (plots/{model}/history.csv)")
            continue
        try:
            found[model] = pl.read_csv(path).select("epoch", "train_loss", "validation_loss")
        except pl.exceptions.PolarsError as error:
            raise ReportError(f"{path}: cannot be read ({error}). Run: dvc repro --force train@{model}") from None
    return found


def _diaries(
    folder: Path, loops: dict[str, Any], crops: list[str], missing: list[str]
) -> dict[tuple[str, str], pl.DataFrame]:
    found = {}
    for crop in crops:
        strong = loops[crop].get("home", {}).get("strong_baseline")
        for policy in (DEVICE, strong) if strong else ():
            rows = _optional(folder / f"diary_{crop}_{policy}.parquet", missing)
            if rows is not None:
                found[crop, policy] = rows
    return found
