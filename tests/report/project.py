"""What the stages before the report leave behind, made up but written through the pipeline's own schemas."""

from __future__ import annotations

import zlib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from headland_edge.bundle import write_bundle
from headland_edge.features import FEATURES, FEATURES_VERSION
from headland_edge.manifest import Target
from headland_edge.rules import DayCurveRule, FourStageRule, SplitRule

from tasks.crops.interface import Crop
from tasks.durable import write_json, write_text
from tasks.evaluation.closed_loop import summary
from tasks.evaluation.predictions import mid_season, scores, scores_by
from tasks.params import Params
from tasks.seasons.schema import DAILY, SCHEMA
from tasks.sources import weather

POLICIES: dict[Crop, dict[str, float]] = {
    "maize": {
        "rainfed": -300.0,
        "weekly_25mm": 60.0,
        "threshold_70pct": 120.0,
        "tuned_threshold": 178.0,
        "tuned_day_curve": 180.0,
        "device": 186.0,
    },
    "wheat": {"zero": 700.0, "best_fixed": 1310.0, "tuned_soil_test": 1340.0, "device": 1352.0},
}
SITES: dict[Crop, tuple[tuple[str, str, int], ...]] = {
    "maize": (("home", "champion", 2009), ("other_soil", "champion", 2009), ("other_site/tunis", "tunis", 1993)),
    "wheat": (
        ("home", "wageningen", 1990),
        ("other_soil", "wageningen", 1990),
        ("other_site/champion", "champion", 2009),
    ),
}
STRONG: dict[Crop, str] = {"maize": "tuned_day_curve", "wheat": "tuned_soil_test"}
CROP_OF: dict[str, tuple[Crop, ...]] = {"irrigation": ("maize",), "nitrogen": ("wheat",), "yield": ("maize", "wheat")}
SEASONS, FIELDS = 8, 3


def make_project(root: Path, params: Params) -> Path:
    """Write every input of the report below ``root``; the device wins a little, by chance in wheat."""
    weather.run(params, root / "data/weather")
    write_models(root, params)
    make_bundle(root, params)
    write_json(root / "data/policies.json", {"training_usd_ha": {"maize": {"sensor_rule": 176.5, "rule": 181.25}}})
    folder = root / "data/evaluation"
    folder.mkdir(parents=True)
    rows = closed_loop()
    rows.write_parquet(folder / "closed_loop.parquet")
    for crop, strong in STRONG.items():
        for policy in ("device", strong):
            diary(crop, policy).write_parquet(folder / f"diary_{crop}_{policy}.parquet")
    known = predictions()
    known.write_parquet(folder / "predictions.parquet")
    write_evaluation(root, params, rows, known)
    return root


def _rng(*names: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))


def closed_loop() -> pl.DataFrame:
    """Rows of every scene as ``play_all`` gives them."""
    rows = []
    for crop, policies in POLICIES.items():
        for scene, site, first in SITES[crop]:
            for season in range(first, first + SEASONS):
                good = _rng(site, season).normal(0.0, 150.0)
                for policy, mean in policies.items():
                    rows += [
                        _farmed(crop, scene, site, season, number, policy, mean + good) for number in range(FIELDS)
                    ]
    return pl.DataFrame(rows)


def _farmed(crop: Crop, scene: str, site: str, season: int, number: int, policy: str, mean: float) -> dict[str, Any]:
    rng = _rng(scene, season, number, policy)
    none = policy in ("rainfed", "zero")
    return {
        "policy": policy,
        "crop": crop,
        "site": site,
        "season": season,
        "field_id": f"{crop}-{site}-{season}-{number:03d}",
        "soil": "Loam",
        "profit_usd_ha": mean + rng.normal(0.0, 12.0),
        "yield_t_ha": (mean + 1900.0) / 190.0,
        "irrigation_mm": 0.0 if none or crop == "wheat" else float(rng.uniform(150, 250)),
        "nitrogen_kg_ha": 0.0 if none or crop == "maize" else float(rng.uniform(80, 130)),
        "fallback_mornings": 1.5 if policy == "device" else 0.0,
        "cut_off": False,
        "refused_mornings": 0.0,
        "scene": scene,
    }


def diary(crop: Crop, policy: str) -> pl.DataFrame:
    """Two fields' mornings in the schema of past seasons."""
    site, season = SITES[crop][0][1:]
    sown = date(season + 3, 4, 28)
    frames = []
    for number in range(2):
        days, rng = np.arange(120), _rng(crop, policy, number)
        rain = np.where(rng.random(120) < 0.2, rng.exponential(9.0, 120), 0.0)
        dose = np.where((days % 19 == 1) & (days > 30), 25.0, 0.0)
        state = np.clip(0.3 + 0.2 * np.sin(days / 6.0), 0, 1)
        seen = np.where(rng.random(120) < 0.05, np.nan, state + rng.normal(0, 0.05, 120))
        values: dict[str, Any] = {
            "days_after_sowing": days,
            "date": [sown + timedelta(days=int(day)) for day in days],
            "rain_mm": rain,
            "irrigation_mm": dose if crop == "maize" else 0.0 * dose,
            "nitrogen_kg_ha": dose if crop == "wheat" else 0.0 * dose,
            "depletion_frac": seen,
            "truth_depletion_frac": state,
            "soil_mineral_n_kg_ha": 60.0 * seen if crop == "wheat" else np.full(120, np.nan),
            "truth_soil_mineral_n_kg_ha": 60.0 * state if crop == "wheat" else np.full(120, np.nan),
        }
        same = {
            "crop": crop,
            "site": site,
            "season": season + 3,
            "soil": "Loam",
            "practice": policy,
            "sowing_date": sown,
        }
        same |= {"field_id": f"{crop}-{site}-{season + 3}-{number:03d}", "truth_yield_t_ha": 11.5}
        filled = {name: values.get(name, np.full(120, 1.0)) for name in SCHEMA if name not in same}
        frame = pl.DataFrame(filled).with_columns(**{name: pl.lit(value) for name, value in same.items()})
        frames.append(frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()))
    return DAILY.validate(pl.concat(frames).fill_nan(None))


def predictions() -> pl.DataFrame:
    """Mornings of held-out fields with quantiles that narrow through the season."""
    rows = []
    for model, crops in CROP_OF.items():
        for crop in crops:
            site, first = SITES[crop][0][1:]
            rng = _rng(model, crop)
            for season in range(first, first + SEASONS):
                for number in range(FIELDS):
                    truth = float(rng.normal(10.0, 1.5))
                    for day in range(0, 120, 1):
                        spread = 1.4 - 0.008 * day
                        middle = truth + float(rng.normal(0.0, 0.75 * spread))
                        rows.append(
                            (model, crop, site, season, number, day, truth, middle - spread, middle, middle + spread)
                        )
    names = ("model", "crop", "site", "season", "number", "days_after_sowing", "truth", "q10", "q50", "q90")
    frame = pl.DataFrame(rows, schema=list(names), orient="row")
    return frame.with_columns(
        field_id=pl.format("{}-{}-{}-{}", "crop", "site", "season", "number"),
        soil=pl.when(pl.col("number") == 0).then(pl.lit("Loam")).otherwise(pl.lit("SiltLoam")),
    )


def write_evaluation(root: Path, params: Params, rows: pl.DataFrame, known: pl.DataFrame) -> None:
    """``metrics/evaluate.json`` by the stage's own summaries."""
    loops: dict[str, dict[str, Any]] = {}
    for (crop, scene), part in rows.group_by("crop", "scene", maintain_order=True):
        loops.setdefault(str(crop), {})[str(scene)] = summary(part)
    models = {}
    for name in params.models:
        mine, settings = known.filter(pl.col("model") == name), params.model[name]
        models[name] = {
            "target": settings.target,
            "unit": settings.unit,
            **scores(mine),
            "by_season": scores_by(mine.with_columns(where=pl.format("{} {}", "site", "season")), "where"),
            "by_soil": scores_by(mine, "soil"),
        }
        if name == "yield":
            past = {crop: (_rng("past", crop).normal(10.0, 1.5, 200), np.full(200, 1999.0)) for crop in settings.crops}
            target = Target(settings.target, settings.unit, settings.offset, settings.scale)
            models[name]["mid_season"] = mid_season(mine, past, target)
    write_json(root / "metrics/evaluate.json", {"as_of": params.as_of, "models": models, "closed_loop": loops})


def write_models(root: Path, params: Params) -> None:
    """Histories and figures of training and compression."""
    for at, name in enumerate(params.models):
        losses = [f"{epoch},{0.03 / epoch + 0.01},{0.02 / epoch + 0.013}" for epoch in range(1, 9)]
        write_text(root / f"plots/{name}/history.csv", "\n".join(["epoch,train_loss,validation_loss", *losses]) + "\n")
        write_json(
            root / f"metrics/train/{name}.json",
            {
                "best_epoch": 7,
                "epochs_run": 8,
                "parameters": 585027,
                "training_windows": 22888,
                "validation_windows": 5234,
            },
        )
        write_json(root / f"metrics/compress/{name}.json", compressed(params.model[name].unit, at))


def compressed(unit: str, at: int) -> dict[str, Any]:
    """Figures of one model's files."""
    whole = {
        "fp32": 0.0107 + 0.001 * at,
        "pruned": 0.01075 + 0.001 * at,
        "int8": 0.01078 + 0.001 * at,
        "control": 0.0111 + 0.001 * at,
    }
    floats, integers = {"Conv": 4, "Relu": 3}, {"QLinearConv": 3, "Conv": 1, "QuantizeLinear": 1}
    sizes, times = (2_345_678, 612_345, 178_901, 180_123), (0.4125, 0.1312, 0.0517, 0.0533)
    rows: dict[str, dict[str, Any]] = {
        name: {
            "metric": metric,
            "loss_frac": metric / whole["fp32"] - 1,
            "size_bytes": size,
            "latency_p50_ms": time,
            "latency_p99_ms": 1.5 * time,
            "parameters": 585027 if name == "fp32" else 151234,
            "kernels": floats if name in ("fp32", "pruned") else integers,
        }
        for (name, metric), size, time in zip(whole.items(), sizes, times, strict=True)
    }
    loss = whole["int8"] / whole["fp32"] - 1
    tried = [
        {"prune_ratio": ratio, "parameters": 151234}
        | {f"{name}_size_bytes": rows[name]["size_bytes"] for name in rows}
        | {f"{name}_loss_frac": more + rows[name]["loss_frac"] for name in rows}
        for ratio, more in ((0.5, 0.02), (0.25, 0.0))
    ]
    return {
        "metric_name": "pinball", "unit": unit, **rows, "shipped": "int8", "reason": "within the loss allowed",
        "loss_frac": loss, "prune_ratio": 0.25, "frontier": tried,
    }  # fmt: skip


def make_bundle(root: Path, params: Params) -> None:
    """A valid bundle whose models are no nets: the report only reads the manifest."""
    curve = DayCurveRule((0, 40, 90), (0.6, 0.5, 0.8), 0.9, 30.0, 5.0).to_dict()
    irrigate = FourStageRule((0.6, 0.5, 0.55, 0.8), (25, 54, 107, 140), 30.0, 5.0).to_dict()
    dose = SplitRule((7.0, 480.0, 704.0), (70.0, 40.0, 30.0), (0.5, 0.4, 0.0), 120.0).to_dict()
    fixed = SplitRule((7.0, 480.0, 704.0), (60.0, 30.0, 20.0), (0.0, 0.0, 0.0), 120.0).to_dict()
    golden = {"inputs": "golden.npy", "outputs": "golden.npy", "tolerance": 0.02}
    models = {}
    for name in params.models:
        settings = params.model[name]
        target = {"name": settings.target, "unit": settings.unit, "offset": 0.0, "scale": settings.scale}
        models[name] = {
            "file": f"models/{name}.onnx", "crops": list(settings.crops), "window_days": 64, "target": target,
            "golden": golden, "kind": "int8",
        }  # fmt: skip
    manifest = {
        "schema_version": 1,
        "release": {"counter": params.as_of * 1000, "as_of": params.as_of},
        "hardware": {"min_ram_mb": 64, "arch": ["x86_64"]},
        "features_version": FEATURES_VERSION,
        "inputs": [{"name": f.name, "unit": f.unit, "scale": f.scale} for f in FEATURES],
        "models": models,
        "policy": {
            "maize": {"rule": curve, "sensor_rule": curve, "fixed_rule": irrigate},
            "wheat": {"rule": dose, "sensor_rule": dose, "fixed_rule": fixed},
        },
        "budgets": {"latency_p99_ms": 2.0, "peak_rss_mb": 80.0},
        "lineage": {
            "git_commit": "0123abcd",
            "dvc_lock_sha256": "ff" * 32,
            "data_versions": {"data/seasons": "9f.dir"},
            "run_id": "aa55",
        },
    }
    members = {f"models/{name}.onnx": name.encode() for name in params.models}
    write_bundle(root / f"data/bundle/headland-{params.as_of}.tar", manifest, {**members, "golden.npy": b"none"})
