"""Windows for Lightning, a whole batch at a time.

Every process draws its windows of epoch *e* from the same seeded permutation and takes its slice of each global
batch, so that together the processes see in each step what one process alone would see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tasks.training.windows import Windows, WindowsError

Batch = tuple[Tensor, Tensor]
MOST_JUDGES = 16_384
"""Windows that an epoch is judged by, at most."""


class WindowSet(Dataset[Batch]):
    """Windows for a ``DataLoader``, a whole batch at a time."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows.index)

    def __getitem__(self, window: int) -> Batch:
        features, targets = self.__getitems__([window])
        return features[0], targets[0]

    def __getitems__(self, windows: list[int]) -> Batch:
        """Features float32 [n, channels, window_days] and targets float32 [n]."""
        targets = self._windows.targets[windows]
        return torch.from_numpy(self._windows.gather(windows)), torch.from_numpy(np.array(targets))


class EpochOrder(Sampler[int]):
    """Which windows this process sees, and in what order, in each epoch.

    Args:
        windows: candidates; drawn without repetition until all were seen.
        per_epoch: windows drawn for each epoch over all processes; what does not fill a global batch is left out.
        global_batch: windows per step over all processes.
        seed: of the permutations.
        rank: number of this process.
        world: how many processes there are.

    Raises:
        WindowsError: a step cannot be divided by the processes, or there are fewer windows than one step needs.
    """

    def __init__(
        self,
        windows: npt.NDArray[np.int64],
        *,
        per_epoch: int,
        global_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if global_batch % world:
            raise WindowsError(
                f"training.global_batch: {global_batch} windows cannot be shared equally by {world} processes. "
                "Change it in params.yaml or set HEADLAND_DEVICES and HEADLAND_NUM_NODES to a divisor."
            )
        if min(len(windows), per_epoch) < global_batch:
            raise WindowsError(
                f"training.global_batch: {global_batch}, but there are {len(windows)} training windows and "
                f"windows_per_epoch is {per_epoch}. Lower global_batch in params.yaml or add seasons."
            )
        self.steps = per_epoch // global_batch
        self._windows, self._global_batch, self._seed = windows, global_batch, seed
        self._rank, self._per_rank = rank, global_batch // world
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, after a resume with the epoch resumed at."""
        self._epoch = epoch

    def steps_of(self, epoch: int) -> npt.NDArray[np.int64]:
        """[steps, global_batch]: the windows of each step of ``epoch``, over all processes."""
        needed = self.steps * self._global_batch
        rounds = -(-needed // len(self._windows))
        drawn = [np.random.default_rng((self._seed, epoch, i)).permutation(self._windows) for i in range(rounds)]
        return np.concatenate(drawn)[:needed].reshape(self.steps, self._global_batch)

    def __iter__(self) -> Iterator[int]:
        first = self._rank * self._per_rank
        yield from self.steps_of(self._epoch)[:, first : first + self._per_rank].ravel().tolist()

    def __len__(self) -> int:
        return self.steps * self._per_rank


def _as_gathered(batch: Any) -> Any:
    """``__getitems__`` has put the batch together already."""
    return batch


def judges(validation: npt.NDArray[np.int64], most: int = MOST_JUDGES) -> npt.NDArray[np.int64]:
    """The validation windows that epochs are judged by: all, or ``most`` spread evenly over them.

    Which epoch was best needs fewer windows than a figure that is told; those are always taken from all.
    """
    if len(validation) <= most:
        return validation
    return validation[np.linspace(0, len(validation) - 1, most).astype(np.int64)]


class WindowsDataModule(pl.LightningDataModule):
    """Training and validation windows of one model for Lightning.

    Args:
        windows: opened windows.
        per_epoch: windows drawn for each epoch.
        global_batch: windows per step over all processes.
        seed: of the order.
    """

    def __init__(self, windows: Windows, *, per_epoch: int, global_batch: int, seed: int) -> None:
        super().__init__()
        self.windows = windows
        self._per_epoch, self._global_batch, self._seed = per_epoch, global_batch, seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """This process's share of each global batch."""
        rank, world = self._place()
        order = EpochOrder(
            self.windows.training,
            per_epoch=self._per_epoch,
            global_batch=self._global_batch,
            seed=self._seed,
            rank=rank,
            world=world,
        )
        batch = self._global_batch // world
        return DataLoader(WindowSet(self.windows), batch_size=batch, sampler=order, collate_fn=_as_gathered)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every ``world``-th of the windows that judge an epoch; the sums are added over the processes."""
        rank, world = self._place()
        mine: list[int] = judges(self.windows.validation)[rank::world].tolist()
        return DataLoader(WindowSet(self.windows), batch_size=256, sampler=mine, collate_fn=_as_gathered)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
