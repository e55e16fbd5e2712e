"""ONNX files: out of torch, folded, stripped, the same bytes each time; and which kernels really run them.

A quantized export carries each weight as floats behind QuantizeLinear. Folding computes that node once, here, and
keeps its int8 result: the same numbers bit for bit in a quarter of the space.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]  # ships without types
import torch
from onnx import ModelProto, NodeProto, numpy_helper

INPUT, OUTPUT = "window", "quantiles"
_OPSET = 18
_WINDOWS_TRACED = 2
INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger")
FLOAT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")


def dynamic_batch() -> Any:
    """Shape description that leaves the number of windows open."""
    return ({0: torch.export.Dim("batch", min=1, max=65536)},)


def traced_windows(channels: int, window_days: int) -> torch.Tensor:
    """An input to trace with, [2, channels, window_days]."""
    return torch.zeros(_WINDOWS_TRACED, channels, window_days)


def quieten() -> None:
    """Keep the exporters' and quantizers' running commentary out of a stage's log; errors come as exceptions."""
    loud = "neural_compressor", "torchao", "torch.utils._pytree", "torch.onnx._internal.exporter._registration"
    for name in ("", *loud):
        logging.getLogger(name or None).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def export(net: torch.nn.Module, channels: int, window_days: int) -> ModelProto:
    """The raw ONNX form of ``net``, plain or quantized: ``window`` [batch, C, L] -> ``quantiles`` [batch, 3]."""
    quieten()
    example = (traced_windows(channels, window_days),)
    program = torch.export.export(net, example, dynamic_shapes=dynamic_batch())
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=_OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    return exported.model_proto


def tidy(model: ModelProto) -> bytes:
    """Fold, strip and rename: the model's shortest form, the same bytes for the same model, the same outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    fold_weights(copy)
    unfold_float_weights(copy)
    drop_unused(copy)
    _strip(copy)
    _rename(copy)
    onnx.checker.check_model(copy)
    data: bytes = copy.SerializeToString(deterministic=True)
    return data


def fold_weights(model: ModelProto) -> int:
    """Replace each QuantizeLinear of a constant by its result, in place; bit-exact. Returns how many."""
    constants = _constants(model)
    folded = 0
    for node in list(model.graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            continue
        quantized = _quantize(node, constants)
        name, clip = node.output[0], _only_reader(model, node.output[0], "Clip")
        if clip is not None:
            quantized = np.clip(quantized, constants[clip.input[1]], constants[clip.input[2]])
            name = clip.output[0]
            model.graph.node.remove(clip)
        model.graph.node.remove(node)
        model.graph.initializer.append(numpy_helper.from_array(quantized, name))
        folded += 1
    return folded


def unfold_float_weights(model: ModelProto) -> int:
    """Dequantize, in place, weights that only a float kernel reads: bit-exact, and saves that work at each run.

    The last layer is such: its output stays float, and onnxruntime has no integer kernel for it.
    """
    constants = _constants(model)
    unfolded = 0
    for node in list(model.graph.node):
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        if (
            _only_reader(model, node.output[0], "Gemm") is None
            and _only_reader(model, node.output[0], "MatMul") is None
        ):
            continue
        values, scale, zero = (constants[name] for name in node.input)
        difference = values.astype(np.int32) - _along(zero.astype(np.int32), node, values.ndim)
        floats = difference.astype(np.float32) * _along(scale, node, values.ndim)
        model.graph.node.remove(node)
        model.graph.initializer.append(numpy_helper.from_array(floats, node.output[0]))
        unfolded += 1
    return unfolded


def _constants(model: ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _along(values: npt.NDArray[Any], node: NodeProto, dimensions: int) -> npt.NDArray[Any]:
    """``values`` of each channel, shaped to meet a tensor of so many dimensions along the node's axis."""
    if values.ndim == 0:
        return values
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * dimensions
    shape[axis] = -1
    return values.reshape(shape)


def _quantize(node: NodeProto, constants: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """What QuantizeLinear gives by the ONNX standard: round half to even, add the zero point, saturate."""
    weights, scale, zero = (constants[name] for name in node.input)
    limits = np.iinfo(zero.dtype)
    steps = np.rint(weights / _along(scale, node, weights.ndim)) + _along(zero.astype(np.float32), node, weights.ndim)
    quantized: npt.NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
    return quantized


def _only_reader(model: ModelProto, name: str, op_type: str) -> NodeProto | None:
    """The one node that reads ``name`` if it is of ``op_type``."""
    readers = [node for node in model.graph.node if name in node.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def drop_unused(model: ModelProto) -> None:
    """Remove constants that no node reads, in place."""
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _strip(model: ModelProto) -> None:
    """Remove all that no runtime reads: source lines of this machine, shapes that are inferred anyway."""
    model.doc_string, model.producer_name, model.producer_version, model.domain = "", "headland", "", ""
    del model.metadata_props[:]
    del model.functions[:]
    graph = model.graph
    graph.name, graph.doc_string = "headland", ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del graph.quantization_annotation[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _rename(model: ModelProto) -> None:
    """Short names in order of use, whatever torch called things."""
    names: dict[str, str] = {INPUT: INPUT, OUTPUT: OUTPUT, "": ""}
    constants = {tensor.name for tensor in model.graph.initializer}
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
        for name in (*node.input, *node.output):
            names.setdefault(name, f"{'c' if name in constants else 'v'}{len(names)}")
    for node in model.graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    tensors = sorted(model.graph.initializer, key=lambda tensor: int(names[tensor.name][1:]))
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    for tensor in copies:
        tensor.name = names[tensor.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def one_thread(model: bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """A session as a device opens it: one thread, no spinning; the optimized graph is written to ``optimized``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def kernels(model: bytes) -> dict[str, int]:
    """How many kernels of each type onnxruntime runs on this machine, read from the graph it made of ``model``."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        one_thread(model, optimized)
        counted = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    return dict(sorted(counted.items()))


def float_convolutions(counted: dict[str, int]) -> int:
    """How many of the counted kernels are convolutions on floats."""
    return sum(counted.get(name, 0) for name in FLOAT_CONVOLUTIONS)


def integer_convolutions(counted: dict[str, int]) -> int:
    """How many of the counted kernels are convolutions on integers."""
    return sum(counted.get(name, 0) for name in INTEGER_CONVOLUTIONS)
