"""The pipeline's own stages, run once for each fold in a folder of its own.

    <place>/common/            weather, seasons and features: the same for every fold
    <place>/fold-K/            params.yaml with ``fold``, and what the stages make of it
    <place>/fold-K/seed-S/     advantage nets and the bundle of one seed

Everything is kept: a study that was stopped goes on where it was. What makes a difference to the figures is hashed into
the name of ``place``, so that nothing stale is ever taken up.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.durable import write_json, write_text
from tasks.params import Params, load

CODE = (
    *("tasks/advantage", "tasks/compression", "tasks/crops", "tasks/features", "tasks/policies", "tasks/seasons"),
    *("tasks/sources", "tasks/training", "tasks/packaging", "tasks/params.py", "edge/headland_edge", "constraints.txt"),
    *(f"tasks/study/{name}.py" for name in ("baselines", "folds", "hindsight", "play", "run")),
)
MODELS = {"maize": "irrigation", "wheat": "nitrogen"}
WIDTHS = [32, 48, 64]
"""The nets of the field's state are trained at the width that pruning leaves, not pruned to it: four times faster."""
_SHARED = ("weather", "seasons", "features")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class StudyError(Exception):
    """A stage failed, or the study's folder can't be used; the message says where to look."""


@dataclass(frozen=True)
class Plan:
    """What a study does.

    Args:
        folds: seasons are dealt to so many folds.
        seeds: of advantage nets, fields' sensors and draws; each fold is learned once with each.
        changes: values of params that differ, by dotted key.
    """

    folds: int = 4
    seeds: tuple[int, ...] = (1, 2, 3)
    changes: tuple[tuple[str, Any], ...] = ()


def end_with(parent: int) -> None:
    """Let the kernel end this process when ``parent``, which started it, ends: nobody would collect what it makes."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGKILL)


def place_of(root: Path, plan: Plan) -> Path:
    """The study's folder: another code, other params, another plan have another one."""
    found = hashlib.sha256((root / "params.yaml").read_bytes())
    for folder in CODE:
        path = root / folder
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(str(file.relative_to(root)).encode() + file.read_bytes())
    found.update(repr((plan.folds, plan.changes)).encode())
    return root / ".headland" / "study" / found.hexdigest()[:12]


def fold_params(root: Path, plan: Plan, fold: int, seed: int | None = None) -> dict[str, Any]:
    """``params.yaml`` of a fold, as plain values."""
    plain: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text())
    last = max(2018, plain["as_of"] + plain["test_seasons"] - 1)
    # as_of past the last season: the fold alone says what may be learned from.
    plain |= {"as_of": last + 1, "fold": {"number": fold, "count": plan.folds}, "models": list(MODELS.values())}
    plain["model"] = {name: plain["model"][name] for name in MODELS.values()}
    for model in plain["model"].values():
        model |= {"widths": WIDTHS, "prune_ratio": 0.0, "finetune_epochs": 0}
    plain["compression"] |= {"latency_runs": 20, "from_base": False}
    for dotted, value in plan.changes:
        *parents, name = dotted.split(".")
        node = plain
        for each in parents:
            node = node[each]
        node[name] = value
    if seed is not None:
        plain["seed"] = plain["seed"] + 1000 * seed
    return plain


def params_of(folder: Path, plain: Mapping[str, Any]) -> Params:
    """Write ``params.yaml`` and read it back, checked."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "params.yaml"
    text = yaml.safe_dump(dict(plain), sort_keys=False)
    if not path.exists() or path.read_text() != text:
        write_text(path, text)
    return load(path)


def stage(folder: Path, *words: str, cores: Sequence[int] = ()) -> None:
    """Run ``python -m WORDS`` in ``folder`` unless it is marked as done; its lines go to ``log.txt`` there.

    Raises:
        StudyError: the stage failed; names the log.
    """
    done = folder / "done.json"
    marks: dict[str, bool] = json.loads(done.read_text()) if done.exists() else {}
    name = " ".join(words)
    if marks.get(name):
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, len(cores) or (os.cpu_count() or 1)))}
    mine = os.getpid()

    def before() -> None:
        end_with(mine)
        if cores:
            os.sched_setaffinity(0, cores)

    with (folder / "log.txt").open("a") as log:
        log.write(f"== {name}\n")
        log.flush()
        code = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=before,
            check=False,
        ).returncode
    if code:
        tail = (folder / "log.txt").read_text().splitlines()[-3:]
        raise StudyError(f"{name} failed in {folder}: {' / '.join(tail)}; the whole is in {folder / 'log.txt'}")
    write_json(done, {**marks, name: True})


def make_common(root: Path, place: Path, plan: Plan) -> Path:
    """Weather, seasons and features, once."""
    folder = place / "common"
    params_of(folder, fold_params(root, plan, 0))
    (folder / "data/field").mkdir(parents=True, exist_ok=True)
    stage(folder, "tasks.sources.weather")
    stage(folder, "tasks.seasons.generate")
    stage(folder, "tasks.features.derive")
    return folder


def make_fold(root: Path, place: Path, plan: Plan, fold: int, cores: Sequence[int] = ()) -> Path:
    """Rules and the nets of the field's state of one fold."""
    folder = place / f"fold-{fold}"
    params_of(folder, fold_params(root, plan, fold))
    for name in ("field", "base"):
        (folder / "data" / name).mkdir(parents=True, exist_ok=True)
    for name in _SHARED:
        link = folder / "data" / name
        if not link.exists():
            link.symlink_to(place / "common/data" / name)
    stage(folder, "tasks.policies.tune", cores=cores)
    for model in MODELS.values():
        stage(folder, "tasks.features.labels", model, cores=cores)
        stage(folder, "tasks.features.windows", model, cores=cores)
        stage(folder, "tasks.training.train", model, cores=cores)
        stage(folder, "tasks.compression.compress", model, cores=cores)
    return folder


def make_seed(root: Path, place: Path, plan: Plan, fold: int, seed: int, cores: Sequence[int] = ()) -> Path:
    """Advantage nets and bundle of one seed of a fold; returns the bundle's path."""
    folder, source = place / f"fold-{fold}" / f"seed-{seed}", place / f"fold-{fold}"
    plain = fold_params(root, plan, fold, seed)
    params_of(folder, plain)
    (folder / "data").mkdir(exist_ok=True)
    for name in (*_SHARED, "policies.json", "models", "windows"):
        link = folder / "data" / name
        if not link.exists():
            link.symlink_to(source / "data" / name)
    for crop in MODELS:
        stage(folder, "tasks.advantage.learn", crop, cores=cores)
    stage(folder, "tasks.packaging.build_bundle", cores=cores)
    return folder / "data/bundle" / f"headland-{plain['as_of']}.tar"
