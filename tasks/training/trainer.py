"""The one Trainer, built from parameters and, for where to run, from the environment.

What is learned stands in ``params.yaml``; where it is learned stands in ``HEADLAND_ACCELERATOR``,
``HEADLAND_DEVICES``, ``HEADLAND_NUM_NODES``, ``HEADLAND_STRATEGY`` and ``HEADLAND_PRECISION``, because the same
parameters give the same net on one process or on many. All default to what Lightning finds (``auto``).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import MLFlowLogger

LAST_CHECKPOINT = "last"


class PlaceError(Exception):
    """The environment names a place that does not exist; the message names the variable."""


@dataclass(frozen=True)
class Place:
    """Where training runs.

    Args:
        accelerator: ``auto``, ``cpu``, ``gpu``, ...
        devices: how many per node, or ``auto``.
        num_nodes: machines.
        strategy: ``auto``, ``ddp``, ...
        precision: Lightning's name of a precision.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Read the ``HEADLAND_*`` variables. Raises PlaceError naming the variable that makes no sense."""
        devices = environment.get("HEADLAND_DEVICES", "auto")
        return cls(
            accelerator=environment.get("HEADLAND_ACCELERATOR", "auto"),
            devices=devices if devices == "auto" else _count("HEADLAND_DEVICES", devices),
            num_nodes=_count("HEADLAND_NUM_NODES", environment.get("HEADLAND_NUM_NODES", "1")),
            strategy=environment.get("HEADLAND_STRATEGY", "auto"),
            precision=environment.get("HEADLAND_PRECISION", "32-true"),
        )


ONE_PROCESS = Place(accelerator="cpu", devices=1)


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise PlaceError(f"{name}={text}: not a count. Set it to 1 or more, or unset it.")
    return int(text)


def make_trainer(
    place: Place, epochs: int, callbacks: list[pl.Callback], checkpoints: Path | None = None, run_name: str = ""
) -> pl.Trainer:
    """A deterministic Trainer.

    Args:
        place: where to run.
        epochs: at most.
        callbacks: told of every epoch.
        checkpoints: folder for ``last.ckpt``, written after every epoch; None for none.
        run_name: of the live curves in MLflow, drawn if ``MLFLOW_TRACKING_URI`` is set; empty for none.

    Raises:
        PlaceError: Lightning does not know the accelerator, strategy or precision, or it is not here.
    """
    quieten()
    if checkpoints is not None:
        callbacks = [*callbacks, _last_checkpoint(checkpoints)]
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") if run_name else None
    try:
        return pl.Trainer(
            accelerator=place.accelerator,
            devices=place.devices,
            num_nodes=place.num_nodes,
            strategy=place.strategy,
            precision=place.precision,  # type: ignore[arg-type]  # any text; Lightning refuses what it does not know
            max_epochs=epochs,
            callbacks=callbacks,
            deterministic=True,
            logger=_live_curves(tracking_uri, run_name) if tracking_uri else False,
            enable_checkpointing=checkpoints is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise PlaceError(f"{error} Check HEADLAND_ACCELERATOR, _DEVICES, _STRATEGY and _PRECISION.") from None


def _last_checkpoint(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=LAST_CHECKPOINT,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )


def _live_curves(tracking_uri: str, run_name: str) -> MLFlowLogger:
    return MLFlowLogger(experiment_name="headland-training", run_name=run_name, tracking_uri=tracking_uri)


def quieten() -> None:
    """Keep Lightning's tips and the remarks on data loading out of a stage's log: gathering needs no workers."""
    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*number of training batches .* is smaller than the logging interval.*")
