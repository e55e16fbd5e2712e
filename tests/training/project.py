"""A small project folder to train and compress in: params.yaml and windows, everything tiny."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.training.water_balance import make_windows

REPOSITORY = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "window_days": 16,
    "widths": [16, 24],
    "kernel": 3,
    "epochs": 3,
    "windows_per_epoch": 640,
    "finetune_epochs": 1,
    "prune_ratio": 0.5,
    "ship": "int8",
    "crossfit_folds": 0,
}
TRAINING: dict[str, Any] = {"global_batch": 64, "learning_rate": 0.003, "patience": 6}


def make_project(
    root: Path, *, fields: int = 15, compression: dict[str, Any] | None = None, **changes: dict[str, Any]
) -> Path:
    """Write ``root``; ``changes`` are sections of params with the keys to change, ``model`` the irrigation net's."""
    plain = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    plain["model"]["irrigation"].update(TINY, **changes.get("model", {}))
    plain["training"].update(TRAINING, **changes.get("training", {}))
    plain["compression"].update({"calibration_windows": 64, "latency_runs": 20}, **(compression or {}))
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    make_windows(root / "data" / "windows" / "irrigation", fields=fields, mornings=60, window_days=16)
    return root


def stage(root: Path, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a stage in ``root`` as DVC would, with the environment given on top of this one."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "edge")])
    place = {"HEADLAND_ACCELERATOR": "cpu", "HEADLAND_DEVICES": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *(arguments or ("irrigation",))],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, **place, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_here(root: Path) -> None:
    """Train in this process: one of its own would load Lightning for longer than it trains."""
    from tasks.params import load
    from tasks.training.train import train
    from tasks.training.trainer import ONE_PROCESS

    train("irrigation", load(root / "params.yaml"), root, ONE_PROCESS)


def compress_here(root: Path) -> None:
    """Compress in this process."""
    from tasks.compression.compress import compress
    from tasks.params import load

    compress("irrigation", load(root / "params.yaml"), root)


def run_stage(root: Path, module: str, *arguments: str, **environment: str) -> None:
    """Run a stage to its end; it must succeed."""
    process = stage(root, module, *arguments, **environment)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
