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

    def __init__(
        self,
        onnx: bytes,
        name: str = "model",
        maps: tuple[str, str] = ("window", "quantiles"),
        outputs: int = QUANTILES,
    ) -> None:
        """Load a model.

        Args:
            onnx: the ONNX file's bytes, weights included.
            name: stands in error messages.
            maps: names of its one input and one output.
            outputs: numbers it gives for each input.

        Raises:
            ModelError: onnxruntime does not take it, or its input and output are not those of ``maps``.
        """
        onnxruntime = _onnxruntime()
        self._name, self._maps, self._outputs = name, maps, outputs
        try:
            self._session = onnxruntime.InferenceSession(onnx, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each failure, without a common base
            raise ModelError(f"{name}: does not load ({_first_line(error)})") from None
        found = [[node.name for node in nodes] for nodes in (self._session.get_inputs(), self._session.get_outputs())]
        if found != [[maps[0]], [maps[1]]]:
            raise ModelError(f"{name}: must map {maps[0]!r} to {maps[1]!r}, maps {found[0]} to {found[1]}")

    def run(self, windows: Float32Array) -> Float32Array:
        """What the net says of each window: quantiles.

        Args:
            windows: shape (n, C, length); n as the model's batch allows, 1 always.

        Returns:
            Shape (n, outputs), scaled units, in the net's own order: quantiles not yet sorted, and nothing checked for
            NaN.

        Raises:
            ModelError: the shape does not fit or the run fails.
        """
        try:
            (output,) = self._session.run([self._maps[1]], {self._maps[0]: windows})
        except Exception as error:  # as above
            raise ModelError(f"{self._name}: does not run on {windows.shape} ({_first_line(error)})") from None
        said = np.asarray(output, np.float32)
        if said.shape != (len(windows), self._outputs):
            raise ModelError(f"{self._name}: gives shape {said.shape}, not {(len(windows), self._outputs)}")
        return said


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
