"""The net on the device: onnxruntime, held to one thread and little memory.

onnxruntime is imported when the first session opens, so that commands that run no net start fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
QUANTILES = 3


class ModelError(RuntimeError):
    """A model does not load or run; the message names it."""


class Session:
    """One loaded ONNX model, int8 or fp32."""

    def __init__(self, onnx: bytes, name: str = "model") -> None:
        """Load a model.

        Args:
            onnx: the ONNX file's bytes, weights included.
            name: stands in error messages.

        Raises:
            ModelError: onnxruntime does not take it, or its input and output are not ``window`` and ``quantiles``.
        """
        onnxruntime = _onnxruntime()
        self._name = name
        try:
            self._session = onnxruntime.InferenceSession(onnx, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each failure, without a common base
            raise ModelError(f"{name}: does not load ({_first_line(error)})") from None
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = [node.name for node in self._session.get_outputs()]
        if inputs != ["window"] or outputs != ["quantiles"]:
            raise ModelError(f"{name}: must map 'window' to 'quantiles', maps {inputs} to {outputs}")

    def run(self, windows: Float32Array) -> Float32Array:
        """Quantiles of each window.

        Args:
            windows: shape (n, C, length); n as the model's batch allows, 1 always.

        Returns:
            Shape (n, 3), scaled units, in the net's own order: not yet sorted, and not checked for NaN.

        Raises:
            ModelError: the shape does not fit or the run fails.
        """
        try:
            (output,) = self._session.run(["quantiles"], {"window": windows})
        except Exception as error:  # as above
            raise ModelError(f"{self._name}: does not run on {windows.shape} ({_first_line(error)})") from None
        quantiles = np.asarray(output, np.float32)
        if quantiles.shape != (len(windows), QUANTILES):
            raise ModelError(f"{self._name}: gives shape {quantiles.shape}, not {(len(windows), QUANTILES)}")
        return quantiles


def _onnxruntime() -> Any:
    import onnxruntime  # type: ignore[import-untyped]  # ships no types

    return onnxruntime


def _options() -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A device waits for tomorrow, not for the next call: no spinning threads, no memory kept for reuse.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
