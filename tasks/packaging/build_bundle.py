"""Stage: one deterministic archive with everything a device needs to advise, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from headland_edge.bundle import open_bundle, write_bundle
from headland_edge.features import FEATURES, FEATURES_VERSION
from headland_edge.runtime import Session
from numpy.typing import NDArray

from tasks import params as params_module
from tasks.crops.fields import field_rng
from tasks.packaging.lineage import lineage
from tasks.packaging.mlbom import mlbom
from tasks.packaging.model_card import model_card
from tasks.packaging.npy import npy
from tasks.packaging.sketch import make_sketch
from tasks.params import Params
from tasks.stage_main import end_of_stage
from tasks.training.windows import Windows, open_windows

PARAMS = ("as_of", "test_seasons", "seed", "sites", "models", "model", "release")
BUNDLES = Path("data/bundle")
GOLDEN_WINDOWS = 8
SKETCH = "sketch.json"
# Integer kernels round alike everywhere; float tails of other processors may differ in the last digits.
GOLDEN_TOLERANCE = 0.02
ADVANTAGE_TOLERANCE_USD_HA = 0.5


def release_counter(params: Params) -> int:
    """The number that may only rise: a season's releases follow those of every season before it."""
    return params.as_of * 1000 + params.release.minor


def golden(model: str, onnx: bytes, windows: Path, seed: int) -> tuple[bytes, bytes]:
    """Windows of training seasons and what the shipped model makes of them here.

    They come from each crop's earliest training season, which later releases have too: the windows are
    half as large as a small net, and would be sent again with every season for nothing.
    """
    data = open_windows(windows / model)
    early = _earliest(data)
    count = min(GOLDEN_WINDOWS, len(early))
    picks = np.sort(field_rng(seed, model, "golden").choice(early, count, replace=False))
    inputs = data.gather(picks)
    session = Session(onnx, model)
    return npy(inputs), npy(np.concatenate([session.run(window[np.newaxis]) for window in inputs]))


def _earliest(data: Windows) -> NDArray[np.int64]:
    """Training windows of each crop's first season."""
    wheat = data.features[data.index[data.training], data.channels.index("is_wheat")] > 0.5
    season = data.group[data.training]
    return np.concatenate(
        [data.training[each & (season == season[each].min())] for each in (~wheat, wheat) if each.any()]
    )


def target_entry(name: str, params: Params, bands: dict[str, Any], trends: dict[str, Any]) -> dict[str, Any]:
    """What the model's outputs mean, with trend and band of each crop where training found any."""
    settings = params.model[name]
    entry = {"name": settings.target, "unit": settings.unit, "offset": settings.offset, "scale": settings.scale}
    calibration = {}
    for crop in settings.crops:
        if crop in bands or crop in trends:
            trend = trends.get(crop, {"reference_season": params.as_of, "per_year_frac": 0.0})
            calibration[crop] = {
                "reference_season": trend["reference_season"],
                "last_season": max(params.season_of(n) for n, s in params.sites.items() if crop in s.crops)
                + params.test_seasons
                - 1,
                "trend_per_year_frac": trend["per_year_frac"],
                **bands.get(crop, {"lower": 1.0, "upper": 1.0}),
            }
    return {**entry, "calibration": calibration} if calibration else entry


def model_entry(
    name: str, params: Params, choice: dict[str, Any], trends: dict[str, Any], sha256: str
) -> dict[str, Any]:
    """The manifest's entry of one model."""
    settings = params.model[name]
    return {
        "file": f"models/{name}.onnx",
        "sha256": sha256,
        "kind": choice["kind"],
        "crops": list(settings.crops),
        "window_days": settings.window_days,
        "target": target_entry(name, params, choice["bands"], trends),
        "golden": {
            "inputs": f"golden/{name}.inputs.npy",
            "outputs": f"golden/{name}.outputs.npy",
            "tolerance": GOLDEN_TOLERANCE,
        },
    }


def based_on(choices: dict[str, dict[str, Any]]) -> dict[str, int]:
    """By model, the counter of the earlier release whose net learned on; empty if all were made anew."""
    return {name: choice["based_on"]["counter"] for name, choice in choices.items() if "based_on" in choice}


def with_advantage(policies: dict[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The rules with the nets that may better them, where one ships, and the members these bring."""
    found, members = {}, {}
    for crop, rules in policies.items():
        learned = folder / crop / "advantage.json"
        entry = json.loads(learned.read_text()) if learned.exists() else {"ships": False}
        if not entry.pop("ships"):
            found[crop] = rules
            continue
        names = {"file": f"advantage/{crop}.onnx"}
        golden = {part: f"advantage/{crop}.{part}.npy" for part in ("inputs", "outputs")}
        members[names["file"]] = (folder / crop / "net.onnx").read_bytes()
        for part, name in golden.items():
            members[name] = (folder / crop / f"golden.{part}.npy").read_bytes()
        golden_entry = {**golden, "tolerance": ADVANTAGE_TOLERANCE_USD_HA}
        found[crop] = {**rules, "advantage": {**entry, **names, "golden": golden_entry}}
    return found, members


def assemble(params: Params, root: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Gather manifest and members from the stages' outputs below ``root``."""
    members: dict[str, bytes] = {}
    models, choices, onnx = {}, {}, {}
    for name in params.models:
        folder = root / "data/models" / name / "compressed"
        choices[name] = json.loads((folder / "choice.json").read_text())
        onnx[name] = (folder / "shipped.onnx").read_bytes()
        hashed = hashlib.sha256(onnx[name]).hexdigest()
        trends = json.loads((root / "data/windows" / name / "meta.json").read_text())["trends"]
        models[name] = model_entry(name, params, choices[name], trends, hashed)
        members[f"models/{name}.onnx"] = onnx[name]
        inputs, outputs = golden(name, onnx[name], root / "data/windows", params.seed)
        members[f"golden/{name}.inputs.npy"], members[f"golden/{name}.outputs.npy"] = inputs, outputs
    made_by = lineage(root, params.models)
    if based := based_on(choices):
        made_by["based_on"] = based
    counter = release_counter(params)
    members["MODEL_CARD.md"] = model_card(params, counter, choices).encode()
    hashes = {name: models[name]["sha256"] for name in models}
    policies, nets = with_advantage(
        json.loads((root / "data/policies.json").read_text())["rules"], root / "data/advantage"
    )
    members |= nets
    better = {name.removesuffix(".onnx").replace("/", "-"): net for name, net in nets.items() if name.endswith(".onnx")}
    hashes |= {name: hashlib.sha256(net).hexdigest() for name, net in better.items()}
    members["mlbom.cdx.json"] = mlbom(params.as_of, onnx | better, hashes, made_by).encode()
    members[SKETCH] = make_sketch(root / "data/windows", models, onnx)
    manifest = {
        "schema_version": 1,
        "release": {"counter": counter, "as_of": params.as_of},
        "hardware": {"min_ram_mb": 256, "arch": ["x86_64", "aarch64"]},
        "features_version": FEATURES_VERSION,
        "inputs": [{"name": f.name, "unit": f.unit, "scale": f.scale} for f in FEATURES],
        "models": models,
        "policy": policies,
        "budgets": {"latency_p99_ms": params.release.latency_p99_ms, "peak_rss_mb": params.release.peak_rss_mb},
        "lineage": made_by,
        "sketch": {"file": SKETCH},
    }
    return manifest, members


def main() -> None:
    """Run the stage in the current folder."""
    params = params_module.load()
    manifest, members = assemble(params, Path())
    target = BUNDLES / f"headland-{params.as_of}.tar"
    shutil.rmtree(BUNDLES, ignore_errors=True)
    write_bundle(target, manifest, members)
    bundle = open_bundle(target)
    bundle.verify_golden()
    print(
        f"bundle: {target}, {target.stat().st_size / 1024:.0f} KiB, "
        f"release {release_counter(params)}, sha256 {bundle.sha256}"
    )


if __name__ == "__main__":
    end_of_stage(main)
