"""A net that goes on learning inside the integers of an earlier release, so that its update is small.

The earlier int8 file is taken as it is: graph, scales and zero points stay, byte for byte. Its weights start as the
integers they were and may move by whole steps of their scales; whatever pays for no full step leaves its byte as it
was. Activations are rounded while it learns just as the device rounds them, with the scales of the earlier release
(quantization-aware training with straight-through gradients, Bengio et al. 2013, Jacob et al. 2018). The new file
differs in the bytes of the weights that moved, in the biases, and in the last layer, which is on floats.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from tasks.compression.onnx_graph import INPUT, OUTPUT

_LEAST, _MOST = -128, 127


class PinError(Exception):
    """An ONNX file that cannot be learned on from; the message says what is unlike the files made here."""


class FloatLayerError(PinError):
    """A layer was left on floats, so that the file has no scales to learn within there."""


@dataclass(frozen=True)
class _Grid:
    """Where an activation is rounded to: ``(step - zero) * scale``, steps from 0 to 255."""

    scale: float
    zero: int


class Rounded(nn.Module):
    """An activation as the device's integers hold it; gradients pass where nothing is clipped."""

    def __init__(self, grid: _Grid) -> None:
        super().__init__()
        self._scale, self._zero = grid.scale, grid.zero

    def forward(self, values: Tensor) -> Tensor:
        """Any shape -> the same."""
        low, high = -self._zero * self._scale, (255 - self._zero) * self._scale
        inside = values.clamp(low, high)
        return inside + (torch.round(inside / self._scale) * self._scale - inside).detach()


class PinnedConv(nn.Module):
    """A convolution whose weights are integers times fixed scales, and move by whole steps.

    Args:
        steps: int8 [out, in, kernel], of the earlier release.
        scale: float32 [out], pinned.
        bias: float32 [out], free.
        stride: mornings.
        padding: mornings on each side.
        steps_per_unit: how many steps a weight moves when the number that is learned moves by 1.
    """

    def __init__(
        self, steps: Tensor, scale: Tensor, bias: Tensor, stride: int, padding: int, steps_per_unit: float
    ) -> None:
        super().__init__()
        self._steps_per_unit = steps_per_unit
        self.register_buffer("steps", steps.float())
        self.register_buffer("scale", scale[:, None, None])
        self.move = nn.Parameter(torch.zeros(steps.shape))
        self.bias = nn.Parameter(bias.clone())
        self.stride, self.padding = stride, padding

    def whole_steps(self) -> Tensor:
        """The integers now, as floats [out, in, kernel]; gradients pass to ``move``."""
        steps = self.get_buffer("steps")
        moved = steps + self.move * self._steps_per_unit
        inside = moved.clamp(_LEAST, _MOST)
        return inside + (torch.round(inside) - inside).detach()

    def weight(self) -> Tensor:
        """Floats [out, in, kernel]."""
        return self.whole_steps() * self.get_buffer("scale")

    def forward(self, values: Tensor) -> Tensor:
        """[batch, in, mornings] -> [batch, out, mornings]."""
        return nn.functional.conv1d(values, self.weight(), self.bias, self.stride, self.padding)


def learner(model: bytes, steps_per_unit: float = 1.0) -> nn.Sequential:
    """The net of an int8 file, ready to learn: it answers as the device does, up to the last digits.

    Args:
        model: an ONNX file of the form that ``quantize`` gives, with every convolution on integers.
        steps_per_unit: optimizers move every number by about the learning rate; integers move by this many steps
            where floats move by 1.

    Raises:
        PinError: the file has another form.
    """
    graph = _open(model)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    convolutions = [node for node in graph.model.graph.node if node.op_type == "Conv"]
    if not convolutions:
        raise PinError("has no convolution")
    for i, node in enumerate(convolutions):
        name = "_head" if node is convolutions[-1] else str(i)
        layers[f"round{name}"] = Rounded(graph.grid_before(node))
        layers[f"conv{name}"] = graph.convolution(node, steps_per_unit)
        layers[f"relu{name}"] = nn.ReLU()
    gemm = graph.model.graph.node[-1]
    layers["round_out"] = Rounded(graph.grid_before(gemm))
    layers["flatten"] = nn.Flatten()
    layers["out"] = graph.last_layer(gemm)
    return nn.Sequential(layers)


def as_floats(net: nn.Sequential) -> nn.Sequential:
    """The same net in ordinary layers that round nothing: what the integers stand for.

    Args:
        net: from ``learner``.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.no_grad():
        for name, layer in net.named_children():
            if isinstance(layer, PinnedConv):
                layers[name] = _ordinary_convolution(layer)
            elif not isinstance(layer, Rounded):
                layers[name] = copy.deepcopy(layer)
    return nn.Sequential(layers).eval()


def rewritten(model: bytes, net: nn.Sequential, last: nn.Linear) -> bytes:
    """The earlier file with what was learned in the places of what was: the same length, the same scales.

    Args:
        model: the earlier file.
        net: from ``learner`` of that file.
        last: the layer to put in place of the last one.
    """
    graph = _open(model)
    convolutions = [node for node in graph.model.graph.node if node.op_type == "Conv"]
    learned = [layer for layer in net.children() if isinstance(layer, PinnedConv)]
    with torch.no_grad():
        for node, layer in zip(convolutions, learned, strict=True):
            graph.put(graph.makers[node.input[1]].input[0], layer.whole_steps().numpy())
            graph.put(node.input[2], layer.bias.numpy())
        gemm = graph.model.graph.node[-1]
        graph.put(gemm.input[1], last.weight.numpy())
        graph.put(gemm.input[2], last.bias.numpy())
    data: bytes = graph.model.SerializeToString(deterministic=True)
    return data


def integers_of(model: bytes) -> npt.NDArray[np.int8]:
    """All int8 weights of a file in a row, to count how many moved."""
    graph = _open(model)
    tensors = [
        graph.value(graph.makers[node.input[1]].input[0]) for node in graph.model.graph.node if node.op_type == "Conv"
    ]
    return np.concatenate([tensor.ravel() for tensor in tensors]).astype(np.int8)


def _ordinary_convolution(layer: PinnedConv) -> nn.Conv1d:
    out, into, kernel = layer.move.shape
    made = nn.Conv1d(into, out, kernel, layer.stride, layer.padding)
    made.weight.copy_(layer.weight())
    assert made.bias is not None
    made.bias.copy_(layer.bias)
    return made


@dataclass(frozen=True)
class _Graph:
    """An int8 file, its constants by name, and the node that makes each value."""

    model: ModelProto
    constants: dict[str, onnx.TensorProto]
    makers: dict[str, NodeProto]

    def value(self, name: str) -> npt.NDArray[Any]:
        """A constant's values. Raises PinError if there is none of that name."""
        if name not in self.constants:
            raise PinError(f"{name} is no constant")
        return numpy_helper.to_array(self.constants[name])

    def put(self, name: str, values: npt.NDArray[Any]) -> None:
        """Other values for a constant, in the very bytes of the old ones."""
        packed = values.astype(self.value(name).dtype).tobytes()
        if len(packed) != len(self.constants[name].raw_data):
            raise PinError(f"{name} does not hold its values as raw bytes")
        self.constants[name].raw_data = packed

    def grid_before(self, node: NodeProto) -> _Grid:
        """How a node's input is rounded."""
        unpacking = self._maker(node.input[0], "DequantizeLinear")
        scale, zero = (self.value(name) for name in unpacking.input[1:])
        if zero.dtype != np.uint8 or scale.size != 1:
            raise PinError(f"the activation before {node.name} is not uint8 with one scale")
        return _Grid(float(scale), int(zero))

    def convolution(self, node: NodeProto, steps_per_unit: float) -> PinnedConv:
        """A convolution's integers, scales and bias."""
        unpacking = self._maker(node.input[1], "DequantizeLinear")
        steps, scale, zero = (self.value(name) for name in unpacking.input)
        if steps.dtype != np.int8 or scale.shape != steps.shape[:1] or zero.any():
            raise PinError(f"the weights of {node.name} are not int8 with a scale for each channel")
        bias = self.value(node.input[2])
        if bias.dtype != np.float32:
            raise PinError(f"the bias of {node.name} is not float32")
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        held = [torch.from_numpy(np.array(each)) for each in (steps, scale, bias)]
        return PinnedConv(held[0], held[1], held[2], settings["strides"][0], settings["pads"][0], steps_per_unit)

    def last_layer(self, node: NodeProto) -> nn.Linear:
        """The layer that answers, [batch, features] -> [batch, 3]."""
        weight, bias = (torch.from_numpy(np.array(self.value(name))) for name in node.input[1:])
        made = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            made.weight.copy_(weight)
            made.bias.copy_(bias)
        return made

    def _maker(self, name: str, op_type: str) -> NodeProto:
        maker = self.makers.get(name)
        if maker is None or maker.op_type != op_type:
            raise FloatLayerError(f"has a layer on floats: {name} does not come from a {op_type}")
        return maker


_KNOWN = {"QuantizeLinear", "DequantizeLinear", "Conv", "Relu", "Reshape", "Gemm"}


def _open(model: bytes) -> _Graph:
    """Read a file and see that it is one chain of the layers that ``learner`` knows."""
    try:
        graph = onnx.load_from_string(model)
    except Exception:  # the error of the protobuf that onnx brings, which has no types
        raise PinError("is no ONNX file") from None
    if not graph.graph.node:
        raise PinError("is no ONNX file")
    for unknown in sorted({node.op_type for node in graph.graph.node} - _KNOWN):
        raise PinError(f"has a layer of type {unknown}")
    if graph.graph.node[-1].op_type != "Gemm" or list(graph.graph.node[-1].output) != [OUTPUT]:
        raise PinError("does not end in a layer on floats")
    if [value.name for value in graph.graph.input] != [INPUT]:
        raise PinError(f"has another input than {INPUT}")
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    return _Graph(graph, constants, makers)
