"""The advantage net: inputs of one morning to gains, two hidden layers; and its int8 form by the project's quantizer.

Written as convolutions over one day, the net passes the same quantizer, folding and checks as the nets over a window.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from headland_edge.advantage import MAPS
from headland_edge.features import Float32Array
from headland_edge.runtime import Session
from numpy.typing import NDArray

from tasks.crops.interface import FloatArray

BOUNDS_USD_HA = (-100.0, 40.0)
"""Gains are learned within these: far outside nothing has to be known exactly. Losses reach further: water that a heavy
soil can't take may cost the harvest, and must not look harmless."""
SCALE_USD_HA = 5.0
_HUBER_USD_HA = 25.0
_BATCH = 256
_CALIBRATION = 2048


@dataclass(frozen=True)
class FloatNet:
    """A trained net as plain arrays; can be sent to another process."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    """Weights (out, in) and biases (out,) of each layer."""

    def __call__(self, inputs: Float32Array) -> NDArray[np.float32]:
        """Gains in USD/ha, shape (n, doses)."""
        value = inputs
        for weight, bias in self.layers[:-1]:
            value = np.maximum(value @ weight.T + bias, np.float32(0.0))
        weight, bias = self.layers[-1]
        return np.asarray(value @ weight.T + bias, dtype=np.float32)


def fit(inputs: Float32Array, gains_usd_ha: FloatArray, width: int, epochs: int, seed: int) -> FloatNet:
    """Learn the gains by Huber loss, so that single bad years do not rule.

    Args:
        inputs: shape (n, n inputs).
        gains_usd_ha: shape (n, doses).
        width: of both hidden layers.
        epochs: passes over all mornings.
        seed: of weights and order.
    """
    import torch

    torch.manual_seed(seed)
    # Inputs are centred while learning, and the centring is folded into the first layer after it.
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-3
    x = torch.from_numpy(((inputs - centre) / spread).astype(np.float32))
    y = torch.from_numpy((np.clip(gains_usd_ha, *BOUNDS_USD_HA) / SCALE_USD_HA).astype(np.float32))
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, y.shape[1]),
    )
    steps = epochs * -(-len(x) // _BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x), _BATCH):
            rows = order[start : start + _BATCH]
            loss = torch.nn.functional.huber_loss(net(x[rows]), y[rows], delta=_HUBER_USD_HA / SCALE_USD_HA)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    layers = [
        (layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
        for layer in net
        if isinstance(layer, torch.nn.Linear)
    ]
    weight, bias = layers[0]
    layers[0] = (weight / spread, bias - (weight / spread) @ centre)
    weight, bias = layers[-1]
    layers[-1] = (weight * SCALE_USD_HA, bias * SCALE_USD_HA)
    return FloatNet(tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers))


def int8(net: FloatNet, inputs: Float32Array, rng: np.random.Generator) -> bytes:
    """The net on integers, as an ONNX file ``inputs`` [n, n inputs, 1] -> ``gains_usd_ha`` [n, doses].

    Args:
        net: trained.
        inputs: mornings of training; they set the integer ranges.
        rng: draws those that do.
    """
    import torch

    from tasks.compression.quantize import quantize

    blocks: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for name, layer in zip(("0", "_head"), net.layers[:-1], strict=True):
        conv = torch.nn.Conv1d(layer[0].shape[1], layer[0].shape[0], 1)
        conv.load_state_dict({"weight": torch.from_numpy(layer[0][..., None]), "bias": torch.from_numpy(layer[1])})
        blocks[f"conv{name}"], blocks[f"relu{name}"] = conv, torch.nn.ReLU()
    weight, bias = net.layers[-1]
    out = torch.nn.Linear(weight.shape[1], weight.shape[0])
    out.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    blocks["flatten"], blocks["out"] = torch.nn.Flatten(), out
    shown = inputs[np.sort(rng.choice(len(inputs), min(_CALIBRATION, len(inputs)), replace=False))][..., None]
    wanted = net(shown[..., 0])

    def judge(onnx: bytes) -> float:
        said = Session(onnx, outputs=wanted.shape[1]).run(shown)
        return 1.0 + float(np.abs(said - wanted).mean())

    attempts = quantize(torch.nn.Sequential(blocks).eval(), shown, ["all"], judge, 1.0)
    return _renamed(attempts[-1].model)


def _renamed(model: bytes) -> bytes:
    """The same file with the names of its input and output that ``headland_edge.advantage`` expects."""
    import onnx

    from tasks.compression.onnx_graph import INPUT, OUTPUT

    graph = onnx.load_from_string(model)
    names = dict(zip((INPUT, OUTPUT), MAPS, strict=True))
    for node in graph.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = names.get(value.name, value.name)
    onnx.checker.check_model(graph)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


@dataclass(frozen=True)
class ShippedNet:
    """The int8 file, run as the device runs it."""

    onnx: bytes
    doses: int

    def __call__(self, inputs: Float32Array) -> NDArray[np.float32]:
        """Gains in USD/ha, shape (n, doses)."""
        return Session(self.onnx, "advantage", MAPS, self.doses).run(np.ascontiguousarray(inputs[..., None]))
