"""Where a bundle comes from: the commit, the locked stages and the data versions that made it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

# What the bundle is made by; stages after it cannot change it.
CODE = ("tasks", "edge/headland_edge", "params.yaml", "dvc.yaml", "constraints.txt")
UPSTREAM = ("weather", "seasons", "features", "policies", "labels", "windows", "train", "compress", "advantage")


def git_commit(root: Path) -> str:
    """The last commit that changed what the bundle is made by, with ``-dirty`` if the folder differs from it.

    Commits that touch only documents or tests leave it as it is. Without a git checkout it is "unknown".
    """
    log = _git(root, "log", "-1", "--format=%H", "--", *CODE)
    if not log:
        return "unknown"
    return log + ("-dirty" if _git(root, "status", "--porcelain", "--", *CODE) else "")


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def locked_stages(lock: Path, models: tuple[str, ...]) -> dict[str, Any]:
    """Entries of the stages before the bundle in ``dvc.lock``; empty where the stages were run by hand.

    Stages of models that are no longer trained are left out, and so are metrics, plots and checkpoints: they hold
    times, and a repeated run must give the same bundle.
    """
    if not lock.exists():
        return {}
    stages: dict[str, Any] = yaml.safe_load(lock.read_text())["stages"]
    return {
        name: {**entry, "outs": [out for out in entry.get("outs", []) if _repeats(out["path"])]}
        for name, entry in sorted(stages.items())
        if name.partition("@")[0] in UPSTREAM and _made_for(name, models)
    }


def _made_for(stage: str, models: tuple[str, ...]) -> bool:
    """Whether a stage serves all, a crop, or one of the models that are trained."""
    kind, _, name = stage.partition("@")
    return not name or kind == "advantage" or name in models


def _repeats(path: str) -> bool:
    return path.startswith("data/") and not path.endswith("/checkpoints")


def lineage(root: Path, models: tuple[str, ...]) -> dict[str, Any]:
    """Commit, hash of the locked upstream stages, data versions, and the run's name: a hash of all three."""
    stages = locked_stages(root / "dvc.lock", models)
    held = [each for entry in stages.values() for each in (*entry.get("outs", []), *entry.get("deps", []))]
    # Of what the stages read, what came back from the field is data as well, though no stage makes it.
    versions = {each["path"]: each["md5"] for each in held if "md5" in each and _repeats(each["path"])}
    found: dict[str, Any] = {
        "git_commit": git_commit(root),
        "dvc_lock_sha256": hashlib.sha256(json.dumps(stages, sort_keys=True).encode()).hexdigest(),
        "data_versions": dict(sorted(versions.items())),
    }
    found["run_id"] = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    return found
