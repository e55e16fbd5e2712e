"""The training loop's two halves for Lightning: what a step does, and what is kept of it.

The same module trains a fresh net on truths and a pruned one on truths and on what the unpruned net says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from tasks.training.data import Batch
from tasks.training.nets import pinball

HistoryRow = dict[str, float]
_FINGERPRINT = "headland_fingerprint"


@dataclass(frozen=True)
class Schedule:
    """How fast to learn.

    Args:
        learning_rate: peak of a one-cycle schedule (Smith & Topin 2018).
        weight_decay: of AdamW.
        steps: optimizer steps of the whole run.
    """

    learning_rate: float
    weight_decay: float
    steps: int


class QuantileModule(pl.LightningModule):
    """A net learning three quantiles of one target.

    Args:
        net: [batch, channels, days] -> [batch, 3].
        schedule: how fast to learn.
        teacher: a trained net to imitate as well, or None.
        fingerprint: written into every checkpoint, so that a resume can tell whether it is of the same run.
    """

    def __init__(
        self, net: nn.Module, schedule: Schedule, teacher: nn.Module | None = None, fingerprint: str = ""
    ) -> None:
        super().__init__()
        self.net = net
        # In a list, so that the teacher is neither trained nor written into checkpoints.
        self._teacher = [teacher.eval()] if teacher is not None else []
        self._schedule, self._fingerprint = schedule, fingerprint
        self.train_loss = self.validation_loss = float("nan")
        self._train_sum, self._train_steps = 0.0, 0
        self._validation_sum, self._validation_count = 0.0, 0

    def training_step(self, batch: Batch, _step: int) -> Tensor:
        """Pinball loss against the truth, with a teacher halved and joined by the distance to its answers."""
        features, targets = batch
        quantiles = self.net(features)
        loss = pinball(quantiles, targets)
        self._train_sum += loss.item()
        self._train_steps += 1
        for teacher in self._teacher:
            with torch.no_grad():
                answers = teacher(features)
            # A smooth L1 whose corner lies below a typical pinball loss keeps both terms of one size.
            loss = 0.5 * loss + 0.5 * nn.functional.smooth_l1_loss(quantiles, answers, beta=0.01)
        return loss

    def on_train_epoch_start(self) -> None:
        """Start the sums of an epoch."""
        self._train_sum, self._train_steps = 0.0, 0

    def validation_step(self, batch: Batch, _step: int) -> None:
        """Add up the loss; batches may differ in size."""
        features, targets = batch
        self._validation_sum += pinball(self.net(features), targets).item() * len(targets)
        self._validation_count += len(targets)

    def on_validation_epoch_start(self) -> None:
        """Start the sums of an epoch."""
        self._validation_sum, self._validation_count = 0.0, 0

    def on_validation_epoch_end(self) -> None:
        """Both losses of the epoch, over all processes."""
        mine = [self._validation_sum, self._validation_count, self._train_sum, self._train_steps]
        sums = torch.tensor(mine, dtype=torch.float64, device=self.device if self.device.type != "mps" else "cpu")
        total = self.trainer.strategy.reduce(sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        validation_sum, validation_count, train_sum, train_steps = total.tolist()
        self.validation_loss = validation_sum / validation_count
        self.train_loss = train_sum / max(train_steps, 1)
        self.log_dict({"train_loss": self.train_loss, "validation_loss": self.validation_loss})

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle learning rate, stepped every batch."""
        optimizer: Optimizer = AdamW(
            self.net.parameters(), lr=self._schedule.learning_rate, weight_decay=self._schedule.weight_decay
        )
        cycle = OneCycleLR(
            optimizer, self._schedule.learning_rate, total_steps=self._schedule.steps, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the run the checkpoint belongs to."""
        checkpoint[_FINGERPRINT] = self._fingerprint


def fingerprint_of(checkpoint: dict[str, Any]) -> str | None:
    """The run a checkpoint was written by, None if it does not say."""
    found = checkpoint.get(_FINGERPRINT)
    return found if isinstance(found, str) else None


class BestEpoch(pl.Callback):
    """Keeps the weights of the best epoch and the history, and ends a run that no longer makes progress.

    All of it is part of a checkpoint, so that a resumed run decides as an uninterrupted one would have.

    Args:
        patience: epochs without progress after which training ends.
        label: what the heartbeat calls the run; empty for silence.
    """

    def __init__(self, patience: int, label: str = "") -> None:
        self._patience, self._label = patience, label
        self.best_loss, self.best_epoch = float("inf"), -1
        self.weights: dict[str, Tensor] = {}
        self.history: list[HistoryRow] = []
        self._started = 0.0
        self._epochs_here = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that was killed after its last epoch has nothing left to do."""
        self._started = time.monotonic()
        trainer.should_stop = self._exhausted()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the epoch. Validation has run before it."""
        assert isinstance(pl_module, QuantileModule)
        row = {"epoch": len(self.history), "train_loss": pl_module.train_loss}
        self.history.append({**row, "validation_loss": pl_module.validation_loss})
        if pl_module.validation_loss < self.best_loss:
            self.best_loss, self.best_epoch = pl_module.validation_loss, len(self.history) - 1
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.net.state_dict().items()}
        trainer.should_stop = trainer.should_stop or self._exhausted()
        self._epochs_here += 1
        if self._label and trainer.is_global_zero:
            self._tell(trainer.max_epochs or 0)

    def _exhausted(self) -> bool:
        return len(self.history) - 1 - self.best_epoch >= self._patience

    def _tell(self, epochs: int) -> None:
        row = self.history[-1]
        left = (time.monotonic() - self._started) / self._epochs_here * (epochs - len(self.history))
        losses = f"train {row['train_loss']:.4f}, validation {row['validation_loss']:.4f}"
        ending = "" if self._exhausted() or left <= 0 else f", at most {left:.0f} s left"
        best = f"best {self.best_loss:.4f} in epoch {self.best_epoch + 1}"
        print(f"{self._label}: epoch {len(self.history)} of {epochs}: {losses}, {best}{ending}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "weights": self.weights,
            "history": self.history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Back from a checkpoint."""
        self.best_loss, self.best_epoch = state_dict["best_loss"], state_dict["best_epoch"]
        self.weights, self.history = state_dict["weights"], state_dict["history"]
