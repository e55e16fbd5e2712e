"""Fitting a net to windows: used to train a fresh one and to fine-tune a pruned one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch.distributed as dist
from torch import nn

from tasks.training.data import WindowsDataModule
from tasks.training.module import BestEpoch, QuantileModule, Schedule
from tasks.training.trainer import Place, make_trainer
from tasks.training.windows import Windows, WindowsError


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn.

    Args:
        epochs: at most.
        windows_per_epoch: drawn for each.
        global_batch: windows per step over all processes.
        learning_rate: peak.
        weight_decay: of AdamW.
        patience: epochs without progress before it ends.
        seed: of the order of windows.
        label: what the heartbeat calls it; empty for silence.
    """

    epochs: int
    windows_per_epoch: int
    global_batch: int
    learning_rate: float
    weight_decay: float
    patience: int
    seed: int
    label: str = ""

    @property
    def steps(self) -> int:
        """Optimizer steps in all epochs."""
        return self.epochs * (self.windows_per_epoch // self.global_batch)


@dataclass(frozen=True)
class Checkpoints:
    """Where a run leaves checkpoints and from which one it goes on.

    Args:
        folder: for ``last.ckpt``.
        fingerprint: of the run, written into each.
        resume_from: a checkpoint of the same run, or None.
    """

    folder: Path
    fingerprint: str
    resume_from: Path | None


def fit(
    net: nn.Sequential,
    windows: Windows,
    plan: Plan,
    place: Place,
    *,
    teacher: nn.Module | None = None,
    checkpoints: Checkpoints | None = None,
    run_name: str = "",
) -> tuple[BestEpoch, bool]:
    """Train ``net`` in place and leave it with the weights of its best epoch.

    Args:
        net: [batch, channels, days] -> [batch, 3].
        windows: to learn from and to judge epochs by.
        plan: how long and how fast.
        place: where to run.
        teacher: a net to imitate as well.
        checkpoints: None to leave none.
        run_name: of the live curves in MLflow; empty for none.

    Returns:
        The history, and whether this process is the one of all that writes files.

    Raises:
        WindowsError: fewer windows than a step needs, or a step that the processes cannot share.
        PlaceError: a place that is not here.
    """
    if plan.steps < 1:
        raise WindowsError(
            f"windows_per_epoch: {plan.windows_per_epoch} is less than training.global_batch: {plan.global_batch}. "
            "Change one of them in params.yaml."
        )
    pl.seed_everything(plan.seed, workers=True, verbose=False)
    schedule = Schedule(plan.learning_rate, plan.weight_decay, plan.steps)
    module = QuantileModule(net, schedule, teacher, checkpoints.fingerprint if checkpoints else "")
    data = WindowsDataModule(windows, per_epoch=plan.windows_per_epoch, global_batch=plan.global_batch, seed=plan.seed)
    best = BestEpoch(plan.patience, plan.label)
    trainer = make_trainer(place, plan.epochs, [best], checkpoints.folder if checkpoints else None, run_name)
    net.train()  # a pruned net comes in evaluation mode, and Lightning would leave its BatchNorms there
    trainer.fit(module, data, ckpt_path=checkpoints.resume_from if checkpoints else None, weights_only=True)
    net.cpu().load_state_dict(best.weights)
    net.eval()
    if dist.is_initialized():  # what one process does next must not wait for the others
        dist.destroy_process_group()
    return best, trainer.is_global_zero
