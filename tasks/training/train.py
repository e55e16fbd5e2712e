"""Stage: train one model, ``python -m tasks.training.train MODEL``.

Same parameters, data and machine give the same bytes, also after a kill -9: each epoch leaves a checkpoint, and a
later run goes on from it if parameters, data and code are still those it was written with. A finished run leaves a
mark in the checkpoint's place, so that a forced repetition trains anew and shows that it ends with the same weights.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from tasks.params import Model, Params
    from tasks.training.fit import Plan
    from tasks.training.module import BestEpoch, HistoryRow
    from tasks.training.nets import Architecture
    from tasks.training.quantiles import Stretch
    from tasks.training.trainer import Place
    from tasks.training.windows import Windows

PARAMS = ("seed", "model", "training")


@dataclass(frozen=True)
class Folders:
    """Where one model's files lie under a project root."""

    root: Path
    model: str

    @property
    def windows(self) -> Path:
        """What to learn from."""
        return self.root / "data" / "windows" / self.model

    @property
    def trained(self) -> Path:
        """The net."""
        return self.root / "data" / "models" / self.model / "trained"

    @property
    def checkpoints(self) -> Path:
        """``last.ckpt``."""
        return self.root / "data" / "models" / self.model / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Figures of the run."""
        return self.root / "metrics" / "train" / f"{self.model}.json"

    @property
    def history(self) -> Path:
        """Losses by epoch."""
        return self.root / "plots" / self.model / "history.csv"


@dataclass(frozen=True)
class Run:
    """One run of training, decided on."""

    model: str
    params: Params
    windows: Windows
    architecture: Architecture
    fingerprint: str

    @property
    def settings(self) -> Model:
        """The model's own parameters."""
        return self.params.model[self.model]


def train(model: str, params: Params, root: Path, place: Place) -> None:
    """Train ``model`` and write net, history and metrics under ``root``.

    Raises:
        WindowsError: the windows are missing or cannot be learned from.
        PlaceError: the environment names a place that is not here.
    """
    from tasks.training.calibrate import calibrate
    from tasks.training.fit import Checkpoints, fit
    from tasks.training.quantiles import Stretch
    from tasks.training.store import save_net

    started, folders = time.monotonic(), Folders(root, model)
    run = prepare(model, params, folders)
    checkpoint = folders.checkpoints / "last.ckpt"
    resumed = usable_epoch(checkpoint, run.fingerprint)
    net = fresh_net(run)
    keep = Checkpoints(folders.checkpoints, run.fingerprint, checkpoint if resumed else None)
    best, leads = fit(net, run.windows, plan_of(run), place, checkpoints=keep, run_name=model)
    if not leads:
        return
    bands = season_bands(run)
    # A band that is widened crop by crop on the device is left here as the net gives it.
    judged = calibrate(net, run.windows, Stretch(1.0, 1.0) if bands else None)
    said = {"bands": {crop: asdict(stretch) for crop, stretch in bands.items()}}
    save_net(folders.trained, net, run.architecture, {**meaning(run.windows), **said})
    write_history(folders.history, best.history)
    write_metrics(folders.metrics, run, best, {**judged, **said}, resumed, time.monotonic() - started)
    mark_finished(checkpoint, run.fingerprint)


def prepare(model: str, params: Params, folders: Folders) -> Run:
    """Open and check what a run needs, and name the run."""
    from tasks.training.nets import Architecture
    from tasks.training.windows import open_windows

    windows, settings = open_windows(folders.windows), params.model[model]
    architecture = Architecture(
        channels=len(windows.channels),
        window_days=windows.window_days,
        widths=settings.widths,
        head=settings.widths[-1],
        kernel=settings.kernel,
    )
    return Run(model, params, windows, architecture, fingerprint(params, model, windows))


def fingerprint(params: Params, model: str, windows: Windows) -> str:
    """SHA-256 over all that the weights depend on: parameters, data, code, and torch."""
    import torch

    training = params.training.model_dump(mode="json", exclude={"timeout_s"})
    wanted = [params.seed, params.model[model].model_dump(mode="json"), training, torch.__version__]
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode())
    digest.update(windows.fingerprint().encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def usable_epoch(checkpoint: Path, fingerprint: str) -> int:
    """Epochs that ``checkpoint`` holds of the run named; 0 if it is absent, damaged, finished or another run's."""
    import torch

    from tasks.training.module import fingerprint_of

    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged file raises: the answer is to train from the start
        return 0
    return int(held["epoch"]) + 1 if fingerprint_of(held) == fingerprint else 0


def fresh_net(run: Run) -> nn.Sequential:
    """The untrained net of a run, the same each time."""
    import torch

    from tasks.training.nets import build, start_at_quantiles

    torch.manual_seed(run.params.seed)
    net = build(run.architecture)
    start_at_quantiles(net, torch.from_numpy(run.windows.targets[run.windows.training]))
    return net


def plan_of(run: Run) -> Plan:
    """How long and how fast, from the parameters."""
    from tasks.training.fit import Plan

    training, settings = run.params.training, run.settings
    return Plan(
        epochs=settings.epochs,
        windows_per_epoch=settings.windows_per_epoch,
        global_batch=training.global_batch,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        patience=training.patience,
        seed=run.params.seed,
        label=run.model,
    )


def season_bands(run: Run) -> dict[str, Stretch]:
    """Factors of the band by crop from cross-fitting over seasons; none where the parameters ask for none."""
    from tasks.training.crossfit import cross_stretch

    folds = run.settings.crossfit_folds
    if folds < 2:
        return {}
    # Nets of about the size that ships: pruned nets are what the band is for, and they train in a quarter of the time.
    keep = 1.0 - run.settings.prune_ratio
    small = replace(
        run.architecture,
        widths=tuple(max(4, round(width * keep)) for width in run.architecture.widths),
        head=max(4, round(run.architecture.head * keep)),
    )
    return cross_stretch(run.windows, small, plan_of(run), folds)


def meaning(windows: Windows) -> dict[str, Any]:
    """What a net's inputs and outputs mean, for ``net.json``."""
    return {
        "channels": list(windows.channels),
        "window_days": windows.window_days,
        "target": asdict(windows.target),
        "quantiles": [0.1, 0.5, 0.9],
    }


def write_history(path: Path, history: list[HistoryRow]) -> None:
    """Losses by epoch as CSV, in scaled units."""
    from tasks.durable import write_text

    text = io.StringIO()
    rows = csv.DictWriter(text, ["epoch", "train_loss", "validation_loss"], lineterminator="\n")
    rows.writeheader()
    rows.writerows({**row, "epoch": int(row["epoch"]) + 1} for row in history)
    write_text(path, text.getvalue())


def write_metrics(
    path: Path, run: Run, best: BestEpoch, judged: dict[str, Any], resumed_epoch: int, seconds: float
) -> None:
    """Figures of the run, in the target's unit."""
    from tasks.durable import write_json
    from tasks.training.nets import build, parameter_count

    figures = {
        "metric_name": "pinball",
        "unit": run.windows.target.unit,
        "target": run.windows.target.name,
        **judged,
        "parameters": parameter_count(build(run.architecture)),
        "training_windows": len(run.windows.training),
        "validation_windows": len(run.windows.validation),
        "epochs_run": len(best.history),
        "best_epoch": best.best_epoch + 1,
        "resumed_after_epoch": resumed_epoch,
        "seconds": round(seconds, 1),
    }
    write_json(path, figures)


def mark_finished(checkpoint: Path, fingerprint: str) -> None:
    """Put a mark in the checkpoint's place: nothing is left to resume."""
    from tasks.durable import write_json

    write_json(checkpoint, {"finished": fingerprint})


def share_cores() -> None:
    """Let idle threads sleep instead of spin; to be called before torch is loaded.

    Where other work runs on the same cores, threads that spin while they wait for each other make a step of training
    five to ten times slower; where none does, sleeping costs next to nothing.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def end_after(seconds: float, leave: Callable[[int], object] = os._exit) -> threading.Timer:
    """End this process if it is still there after ``seconds``: a lost partner would keep it waiting for ever."""

    def end() -> None:
        print(f"training.timeout_s: not done after {seconds:g} s, ended. Raise it in params.yaml.", file=sys.stderr)
        leave(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def main(arguments: list[str] | None = None) -> int:
    """Command line of the stage; 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m tasks.training.train", description="Train one model.")
    parser.add_argument("model", help="an entry of models in params.yaml")
    wanted = parser.parse_args(arguments)

    share_cores()
    from tasks import params as params_module

    try:
        params = params_module.load()
    except params_module.ParamsError as error:
        print(error, file=sys.stderr)
        return 1
    if wanted.model not in params.model:
        print(f"{wanted.model}: no such model. params.yaml has {', '.join(params.model)}.", file=sys.stderr)
        return 2

    from tasks.training.trainer import Place, PlaceError
    from tasks.training.windows import WindowsError

    end_after(params.training.timeout_s)
    try:
        train(wanted.model, params, Path(), Place.from_environment())
    except (WindowsError, PlaceError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
