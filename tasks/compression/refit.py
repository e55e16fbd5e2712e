"""After quantization: what the last layer, which stays on floats, can make good again.

Integers shift and mix the activations that reach the last layer a little. Its weights are moved, by ridge regression
on training windows, to where its answers on those activations are closest to the float net's. It costs nothing at
run time. (The idea of bias correction, Nagel et al. 2019, taken from the bias to the whole last layer.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from tasks.compression.onnx_graph import INPUT, OUTPUT, one_thread

_RIDGE = 0.01
_BATCH = 256
Floats = npt.NDArray[np.float64]


def refit_last_layer(model: bytes, net: nn.Sequential, shown: npt.NDArray[np.float32]) -> bytes:
    """``model`` with a last layer fitted to what ``net`` says.

    Args:
        model: a quantized ONNX file whose last node is a float Gemm; any other comes back unchanged.
        net: the float net it was made from.
        shown: training windows float32 [n, channels, days].
    """
    graph = onnx.load_from_string(model)
    gemm = graph.graph.node[-1]
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    if gemm.op_type != "Gemm" or any(name not in tensors for name in gemm.input[1:]) or not _is_plain(gemm):
        return model
    weight, bias = (numpy_helper.to_array(tensors[name]).astype(np.float64) for name in gemm.input[1:])
    activations = _activations(graph, gemm.input[0], shown)
    wanted = _answers(net, shown)
    move, shift = _ridge(activations, wanted - (activations @ weight.T + bias))
    for name, values in zip(gemm.input[1:], (weight + move, bias + shift), strict=True):
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def _is_plain(gemm: NodeProto) -> bool:
    """Whether it computes ``x @ weight.T + bias`` and gives the net's output."""
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in gemm.attribute}
    plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("transA", 0) == 0
    return bool(plain and attributes.get("transB", 0) == 1 and gemm.output[0] == OUTPUT)


def _activations(model: ModelProto, name: str, shown: npt.NDArray[np.float32]) -> Floats:
    """What reaches the last layer, [n, features], as onnxruntime computes it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]))
    session = one_thread(copy.SerializeToString())
    parts = [session.run([name], {INPUT: shown[i : i + _BATCH]})[0] for i in range(0, len(shown), _BATCH)]
    return np.concatenate(parts).astype(np.float64)


def _answers(net: nn.Sequential, shown: npt.NDArray[np.float32]) -> Floats:
    with torch.no_grad():
        parts = [net(torch.from_numpy(shown[i : i + _BATCH])).numpy() for i in range(0, len(shown), _BATCH)]
    return np.concatenate(parts).astype(np.float64)


def _ridge(activations: Floats, missing: Floats) -> tuple[Floats, Floats]:
    """Changes of weight [outputs, features] and bias [outputs] that best explain ``missing`` [n, outputs].

    The penalty on the weights is a share of the mean variance of the activations; the bias is free.
    """
    mean = activations.mean(axis=0)
    centred = activations - mean
    spread = centred.T @ centred / len(centred)
    penalty = _RIDGE * np.trace(spread) / len(spread) + 1e-12
    move = np.linalg.solve(spread + penalty * np.eye(len(spread)), centred.T @ missing / len(centred)).T
    return move, missing.mean(axis=0) - move @ mean
