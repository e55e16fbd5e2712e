"""What records of a season are worth: the yield net learns from them for a short time and is judged on the next season.

Learning is short: the last layers only, with field windows making up the share of a batch that the pipeline gives them
(``FIELD_SHARE``), beside windows of the net's own training. What comes before the last layers is computed once, so that
many choices of records can be compared: everything, what devices chose, a random draw of the same bytes, nothing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headland_edge.features import clean, derive
from headland_edge.messages import Message
from headland_edge.records import COLUMNS, Records
from headland_edge.selection import FieldSeason, Judged, Terms, messages
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from tasks.crops.fields import field_rng
from tasks.features.trend import Trend
from tasks.features.windows import FIELD_SHARE
from tasks.training.nets import folded, pinball
from tasks.training.quantiles import score
from tasks.training.store import load_net
from tasks.training.windows import Windows, open_windows

MODEL = "yield"
STEPS, BATCH, LEARNING_RATE = 60, 256, 3e-4
EVERY_DAYS = 3
"""Of mornings, one in so many is learned from and judged by."""
OLD_WINDOWS = 6000
Arm = Mapping[int, int]
"""By number of the field, how many mornings came."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Windows as the last layers see them, and what they shall say.

    Args:
        activations: [n, channels, days].
        targets: [n], scaled, without the trend.
        field: [n], number of the field.
        day: [n], days after sowing.
        t_ha: [n], what a target of 1 is in t/ha.
    """

    activations: Tensor
    targets: Tensor
    field: np.ndarray[Any, np.dtype[np.int64]]
    day: np.ndarray[Any, np.dtype[np.int64]]
    t_ha: np.ndarray[Any, np.dtype[np.float64]]

    def of(self, arm: Arm) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Windows of the mornings that came."""
        most = np.array([arm.get(number, 0) for number in range(int(self.field.max()) + 1)])
        return np.flatnonzero(self.day < most[self.field])


@dataclass(frozen=True, eq=False)
class Start:
    """The net that learning starts from, cut before its last layers, and windows of its own training."""

    stack: nn.Sequential
    head: nn.Sequential
    windows: Windows
    trends: Mapping[str, Trend]
    old: Tensor
    old_targets: Tensor


def start_of(root: Path, seed: int) -> Start:
    """The trained net of the project ``root`` and a sample of its training windows, through all but its last layers."""
    folder = root / "data" / "windows" / MODEL
    windows = open_windows(folder)
    net, _, _ = load_net(root / "data" / "models" / MODEL / "trained")
    layers = list(folded(net).named_children())
    cut = [name for name, _ in layers].index("conv_head")
    stack, head = (nn.Sequential(*[layer for _, layer in part]) for part in (layers[:cut], layers[cut:]))
    picks = field_rng(seed, "sync", "old").choice(windows.training, OLD_WINDOWS)
    targets = torch.from_numpy(np.array(windows.targets[picks]))
    trends = {crop: Trend(**plain) for crop, plain in json.loads((folder / "meta.json").read_text())["trends"].items()}
    return Start(stack, head, windows, trends, activations(stack, windows.gather(picks)), targets)


def activations(stack: nn.Sequential, windows: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """What reaches the last layers, [n, channels, days]."""
    with torch.no_grad():
        parts = [stack(torch.from_numpy(windows[i : i + BATCH])) for i in range(0, len(windows), BATCH)]
    return torch.cat(parts)


def shown(
    start: Start,
    fields: Sequence[tuple[Records, float]],
    seasons: Mapping[str, int],
    ends: Sequence[Sequence[int]] | None = None,
) -> Shown:
    """Windows of every field of a season, complete.

    Args:
        start: the net.
        fields: records of each and its harvest, t/ha.
        seasons: by crop, the season as the trend counts it.
        ends: for each field, the mornings that windows end on; None for one in ``EVERY_DAYS``.
    """
    target, days = start.windows.target, start.windows.window_days
    parts, truths, number, day, t_ha = [], [], [], [], []
    for i, (records, harvest_t_ha) in enumerate(fields):
        trend = start.trends.get(records.crop)
        growth = trend.factor(seasons[records.crop]) if trend else 1.0
        features = derive(clean(as_sent(records))[0])
        padded = np.vstack([np.zeros((days - 1, features.shape[1]), np.float32), features])
        last = np.arange(0, len(features), EVERY_DAYS) if ends is None else np.array(ends[i], dtype=np.int64)
        parts.append(activations(start.stack, np.ascontiguousarray(sliding_window_view(padded, days, axis=0)[last])))
        truths.append(np.full(last.size, (harvest_t_ha / growth - target.offset) / target.scale, np.float32))
        number.append(np.full(last.size, i))
        day.append(last)
        t_ha.append(np.full(last.size, target.scale * growth))
    return Shown(
        torch.cat(parts),
        torch.from_numpy(np.concatenate(truths)),
        np.concatenate(number),
        np.concatenate(day),
        np.concatenate(t_ha),
    )


def as_sent(records: Records) -> Records:
    """A whole season as it arrives: through the device's own messages, rounded."""
    nothing = Judged(FieldSeason("a", records, None, np.empty((0, 3))), np.nan, np.nan, np.nan)
    values = np.full(records.values.shape, np.nan)
    for message in messages(nothing, records.n_mornings, ["random"], Terms(), "a"):
        first = message.body["first_day"]
        for name, column in message.body["columns"].items():
            read = [np.nan if value is None else value for value in column]
            values[first : first + len(read), COLUMNS.index(name)] = read
    return Records(records.crop, records.sowing_date, values)


def arm_of(sent: Sequence[Message], number_of: Callable[[Message], int]) -> dict[int, int]:
    """What messages of kind ``record`` hold: by number of the field, up to which morning.

    Args:
        sent: excerpts; each field's begin with its first morning and leave none out.
        number_of: the number of a message's field.
    """
    arm: dict[int, int] = {}
    for message in sent:
        number = number_of(message)
        mornings = len(next(iter(message.body["columns"].values())))
        arm[number] = max(arm.get(number, 0), message.body["first_day"] + mornings)
    return arm


def learned(start: Start, season: Shown, arm: Arm, seed: int) -> nn.Sequential:
    """The last layers after a short time with what came, beside windows of the seasons before."""
    head = copy.deepcopy(start.head)
    came = season.of(arm)
    if not came.size:
        return head
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, cycle_momentum=False)
    of_field = round(FIELD_SHARE * BATCH)
    for _ in range(STEPS):
        old, new = rng.integers(len(start.old), size=BATCH - of_field), rng.choice(came, of_field)
        inputs = torch.cat([start.old[old], season.activations[new]])
        loss = pinball(head(inputs), torch.cat([start.old_targets[old], season.targets[new]]))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        cycle.step()
    return head


def metric(head: nn.Sequential, season: Shown) -> float:
    """Mean pinball loss on a season's fields, t/ha."""
    with torch.no_grad():
        said = head(season.activations).numpy()
    scale = season.t_ha[:, None]
    return score(said * scale, season.targets.numpy() * season.t_ha, 1.0).pinball
