"""The net: a stack of convolutions over a window of mornings, three quantiles of one target.

    window [batch, channels, days] -> (Conv1d, BatchNorm, ReLU)* -> Conv1d over all that is left -> ReLU -> Linear

The shape is chosen for what comes later: padding lies inside the convolutions, nothing is added around them, each
BatchNorm folds into the convolution before it, so that every convolution can run on integers. The first convolution
keeps every morning, each later one halves their number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.utils.fusion import fuse_conv_bn_eval

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Architecture:
    """What a net looks like; with its weights, all that is needed to build it again.

    Args:
        channels: values per morning.
        window_days: mornings in a window.
        widths: channels out of each convolution of the stack.
        head: channels out of the convolution that spans the days left.
        kernel: days each convolution of the stack spans, odd.
    """

    channels: int
    window_days: int
    widths: tuple[int, ...]
    head: int
    kernel: int

    @property
    def strides(self) -> tuple[int, ...]:
        """Days each convolution steps: the first sees every morning, each later one every second."""
        return (1, *([2] * (len(self.widths) - 1)))

    @property
    def days_left(self) -> int:
        """Length of what the last convolution of the stack gives."""
        days = self.window_days
        for stride in self.strides:
            days = (days - 1) // stride + 1
        return days

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Architecture:
        """Inverse of ``as_dict``; KeyError or TypeError if a field is missing or unknown."""
        return cls(**{**plain, "widths": tuple(plain["widths"])})


class SharedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm whose statistics are those of the global batch, on CPUs too.

    ``torch.nn.SyncBatchNorm`` does the same for GPUs only. With one process it is exactly ``BatchNorm1d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[batch, channels, days] -> the same shape."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        count = input.shape[0] * input.shape[2] * dist.get_world_size()
        mean = _over_processes(input.sum(dim=(0, 2))) / count
        centred = input - mean[None, :, None]
        variance = _over_processes(centred.square().sum(dim=(0, 2))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result: Tensor = centred * scale[None, :, None] + self.bias[None, :, None]
        return result

    def _remember(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(unbiased_variance, self.momentum or 0.0)


def _over_processes(value: Tensor) -> Tensor:
    """Sum over all processes, gradients included."""
    total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total


def build(architecture: Architecture) -> nn.Sequential:
    """A net with fresh weights: [batch, channels, window_days] -> [batch, 3], quantiles in scaled units."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    before, padding = architecture.channels, architecture.kernel // 2
    for i, (width, stride) in enumerate(zip(architecture.widths, architecture.strides, strict=True)):
        layers[f"conv{i}"] = nn.Conv1d(before, width, architecture.kernel, stride, padding, bias=False)
        layers[f"norm{i}"] = SharedBatchNorm1d(width)
        layers[f"relu{i}"] = nn.ReLU()
        before = width
    layers["conv_head"] = nn.Conv1d(before, architecture.head, architecture.days_left, bias=False)
    layers["norm_head"] = SharedBatchNorm1d(architecture.head)
    layers["relu_head"] = nn.ReLU()
    # Flatten and Linear, not a 1x1 convolution: the quantizer takes a plain Linear but no Conv1d without a ReLU,
    # and a last layer it skips leaves the convolution before it on floats as well.
    layers["flatten"] = nn.Flatten()
    layers["out"] = nn.Linear(architecture.head, len(QUANTILES))
    return nn.Sequential(layers)


def start_at_quantiles(net: nn.Sequential, targets: Tensor) -> None:
    """Let an untrained net answer with the quantiles of all ``targets`` [n], so that training starts from there."""
    out = net.get_submodule("out")
    assert isinstance(out, nn.Linear)
    with torch.no_grad():
        out.bias.copy_(torch.quantile(targets.double(), torch.tensor(QUANTILES, dtype=torch.float64)))
        out.weight.mul_(0.1)


def folded(net: nn.Sequential) -> nn.Sequential:
    """A copy in evaluation form, each BatchNorm folded into the convolution before it."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    net = net.eval()
    for name, layer in net.named_children():
        if isinstance(layer, nn.BatchNorm1d):
            conv = name.replace("norm", "conv")
            layers[conv] = fuse_conv_bn_eval(layers[conv], layer)  # type: ignore[type-var]  # holds Modules by name
        else:
            layers[name] = layer
    return nn.Sequential(layers).eval()


def parameter_count(net: nn.Module) -> int:
    """Numbers a net learned, those of BatchNorm counted as they fold into biases."""
    return sum(parameter.numel() for parameter in folded_or_same(net).parameters())


def folded_or_same(net: nn.Module) -> nn.Module:
    """``folded(net)`` where there is something to fold."""
    has_norm = any(isinstance(layer, nn.BatchNorm1d) for layer in net.modules())
    return folded(net) if has_norm and isinstance(net, nn.Sequential) else net


def pinball(quantiles: Tensor, targets: Tensor, levels: Sequence[float] = QUANTILES) -> Tensor:
    """Mean pinball loss of [batch, 3] quantiles for [batch] targets, in the unit of both (Koenker & Bassett 1978)."""
    error = targets[:, None] - quantiles
    level = torch.tensor(levels, dtype=error.dtype, device=error.device)
    return torch.maximum(level * error, (level - 1) * error).mean()
