"""Structured pruning: whole channels leave, so that size and time fall on any runtime."""

from __future__ import annotations

import copy

import torch
import torch_pruning  # type: ignore[import-untyped]  # ships without types
from torch import Tensor, nn

from tasks.training.nets import Architecture, build, pinball

# Kernels work on 8 channels or a multiple of them at a time.
_CHANNEL_MULTIPLE = 8


def prune(
    net: nn.Sequential, architecture: Architecture, ratio: float, sample: tuple[Tensor, Tensor]
) -> tuple[nn.Sequential, Architecture]:
    """A copy of ``net`` without the share ``ratio`` of each layer's channels that matter least.

    A channel matters by what the loss would change without it, to first order (Molchanov et al. 2019, Taylor).
    The net's inputs and outputs stay.

    Args:
        net: trained, of ``architecture``.
        architecture: its shape.
        ratio: share to remove, 0 <= ratio < 1.
        sample: training windows [n, channels, days] and targets [n] to judge by.

    Returns:
        The narrower net and its architecture.
    """
    narrow = copy.deepcopy(net).eval()
    features, targets = sample
    pruner = torch_pruning.pruner.BasePruner(
        narrow,
        features[:1],
        importance=torch_pruning.importance.GroupTaylorImportance(),
        pruning_ratio=ratio,
        ignored_layers=[narrow.get_submodule("out")],
        round_to=_CHANNEL_MULTIPLE,
    )
    narrow.zero_grad()
    pinball(narrow(features), targets).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    pruner.step()
    narrow.zero_grad()
    return _rebuilt(narrow, architecture)


def _rebuilt(narrow: nn.Sequential, architecture: Architecture) -> tuple[nn.Sequential, Architecture]:
    """The pruned weights in a net built anew, which proves that its architecture is what we say."""
    widths = tuple(_channels_out(narrow, f"conv{i}") for i in range(len(architecture.widths)))
    found = Architecture(
        channels=architecture.channels,
        window_days=architecture.window_days,
        widths=widths,
        head=_channels_out(narrow, "conv_head"),
        kernel=architecture.kernel,
    )
    fresh = build(found)
    with torch.no_grad():
        fresh.load_state_dict(narrow.state_dict())
    return fresh.eval(), found


def _channels_out(net: nn.Sequential, name: str) -> int:
    layer = net.get_submodule(name)
    assert isinstance(layer, nn.Conv1d)
    return layer.out_channels
