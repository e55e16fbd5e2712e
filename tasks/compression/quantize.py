"""Integers: Intel Neural Compressor's static quantization, and onnxruntime's own as the control.

Neural Compressor's ``autotune`` walks settings in the order the parameters declare and stops at the first whose
metric is within the loss allowed. Each setting is judged as the very file that would ship, run by onnxruntime.
Activations are uint8, weights int8 per channel; ranges come from training windows. The last layer stays on floats and
is fitted anew to the integers before it (``refit``).
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tasks.compression.onnx_graph import INPUT, dynamic_batch, export, quieten, tidy, traced_windows
from tasks.compression.refit import refit_last_layer

# What each setting of compression.fallback leaves on floats.
KEPT_FLOAT: dict[str, tuple[str, ...]] = {
    "all": (),
    "keep_first": ("block0",),
    "keep_last": ("out",),
    "keep_first_and_last": ("block0", "out"),
}
_CALIBRATION_BATCH = 64
Calibration = npt.NDArray[np.float32]


class QuantizeError(Exception):
    """A setting nobody knows, or a quantizer that gave nothing; the message says which."""


@dataclass
class Attempt:
    """One setting that was tried.

    Args:
        setting: its name in compression.fallback.
        metric: the task's metric of the file, lower is better.
        model: the ONNX file.
    """

    setting: str
    metric: float
    model: bytes = field(repr=False)


def quantize(
    net: nn.Sequential,
    calibration: Calibration,
    settings: Sequence[str],
    judge: Callable[[bytes], float],
    max_loss_frac: float,
    refit_windows: Calibration | None = None,
) -> list[Attempt]:
    """Quantize ``net`` with each setting in turn until one is good enough.

    Args:
        net: folded (no BatchNorm), in evaluation mode.
        calibration: training windows float32 [n, channels, days].
        settings: names of ``KEPT_FLOAT``, in order.
        judge: the task's metric of an ONNX file, lower is better.
        max_loss_frac: greatest loss against ``net`` itself that ends the search.
        refit_windows: training windows to fit the last layer on; those of ``calibration`` if None.

    Returns:
        The settings tried, in order; the best is the one of the lowest metric, normally the last.

    Raises:
        QuantizeError: an unknown setting.
    """
    from neural_compressor.torch.export import export as prepare_export  # type: ignore[import-untyped]  # untyped
    from neural_compressor.torch.quantization import TuningConfig, autotune  # type: ignore[import-untyped]  # untyped

    quieten()
    configs = [_config(setting) for setting in settings]
    refit_windows = calibration if refit_windows is None else refit_windows
    trials = _Trials(settings, net, calibration.shape[1:], judge, refit_windows)
    example = traced_windows(calibration.shape[1], calibration.shape[2])
    graph = prepare_export(in_blocks(net), (example,), dynamic_shapes=dynamic_batch())
    autotune(
        graph,
        TuningConfig(config_set=configs, tolerable_loss=max_loss_frac, max_trials=len(configs)),
        eval_fn=trials.evaluate,
        run_fn=lambda prepared: _run_through(prepared, calibration),
        example_inputs=(example,),
    )
    if not trials.attempts:
        raise QuantizeError("Neural Compressor quantized nothing. Check the pinned versions in constraints.txt.")
    return trials.attempts


def in_blocks(net: nn.Sequential) -> nn.Sequential:
    """The same layers with each convolution and its ReLU under one name, ``block0``, ``block1``, ..., ``block_head``.

    The quantizer takes the two as one pattern, and a setting for a name holds only where the whole pattern has it:
    one for the convolution alone is silently without effect.
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in net.named_children():
        if name.startswith("relu"):
            conv = blocks.pop(name.replace("relu", "conv"))
            blocks[name.replace("relu_", "block_").replace("relu", "block")] = nn.Sequential(conv, layer)
        else:
            blocks[name] = layer
    return nn.Sequential(blocks).eval()


class _Trials:
    """Judges what autotune tries; it calls once with the float graph, then once for each setting."""

    def __init__(
        self,
        settings: Sequence[str],
        net: nn.Sequential,
        shape: tuple[int, ...],
        judge: Callable[[bytes], float],
        refit_windows: Calibration,
    ) -> None:
        self._settings, self._net, self._judge, self._refit_windows = settings, net, judge, refit_windows
        self._channels, self._days = shape
        self._float_metric: float | None = None
        self.attempts: list[Attempt] = []

    def evaluate(self, graph: nn.Module) -> float:
        """A score that falls by the share the metric rises: autotune wants more to be better."""
        model = tidy(export(graph, self._channels, self._days))
        if self._float_metric is None:
            self._float_metric = self._judge(model)
            return self._float_metric
        model = refit_last_layer(model, self._net, self._refit_windows)
        metric = self._judge(model)
        if len(self.attempts) < len(self._settings):
            self.attempts.append(Attempt(self._settings[len(self.attempts)], metric, model))
        return 2 * self._float_metric - metric


def _config(setting: str) -> Any:
    from neural_compressor.torch.quantization import StaticQuantConfig

    if setting not in KEPT_FLOAT:
        raise QuantizeError(f"compression.fallback: {setting}: unknown. Choose from {', '.join(KEPT_FLOAT)}.")
    # "kl" clips what is rare to spend its steps on what is frequent: a rare large irrigation is just what must not
    # be clipped. "minmax" is a moving average over batches: shown all windows as one batch, it is the true range.
    config = StaticQuantConfig(act_algo="minmax")
    for layer in KEPT_FLOAT[setting]:
        config.set_local(layer, StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
    return config


def _run_through(prepared: nn.Module, calibration: Calibration) -> None:
    with torch.no_grad():
        prepared(torch.from_numpy(calibration))


class _Reader:
    """Calibration windows in the form onnxruntime's quantizer asks for them."""

    def __init__(self, calibration: Calibration) -> None:
        self._batches = iter(np.array_split(calibration, max(1, len(calibration) // _CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, Calibration] | None:
        """The next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def control(model: bytes, calibration: Calibration) -> bytes:
    """onnxruntime's own static quantization of a float ONNX file, with the same data and types."""
    import onnx
    from onnxruntime.quantization import (  # type: ignore[import-untyped]  # ships without types
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    quieten()
    CalibrationDataReader.register(_Reader)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(model)
        quantize_static(
            before,
            after,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return tidy(onnx.load(after))
