from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from headland_edge.features import FEATURES
from headland_edge.runtime import ModelError, Session
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static  # type: ignore[import-untyped]  # ships no types

from tests.edge.small_bundle import WINDOW_DAYS, conv_net


def by_hand(net: bytes, windows: np.ndarray) -> np.ndarray:
    """The tiny net in NumPy."""
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(net).graph.initializer}
    padded = np.pad(windows, ((0, 0), (0, 0), (1, 1)))
    taps = [np.einsum("fc,ncl->nfl", weights["kernel"][:, :, k], padded[:, :, k : k + WINDOW_DAYS]) for k in range(3)]
    pooled = np.maximum(taps[0] + taps[1] + taps[2], 0.0).mean(axis=2)
    return np.asarray(pooled @ weights["linear"] + weights["bias"])


def test_a_session_computes_what_the_net_says() -> None:
    windows = np.random.default_rng(3).normal(0, 1, (5, len(FEATURES), WINDOW_DAYS)).astype(np.float32)
    net = conv_net(4)
    outputs = Session(net).run(windows)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, by_hand(net, windows), atol=1e-5)
    np.testing.assert_allclose(Session(net).run(windows[:1]), outputs[:1], atol=1e-6)


@pytest.mark.parametrize("net", [b"", b"not onnx", conv_net()[:200]])
def test_what_is_no_model_is_refused(net: bytes) -> None:
    with pytest.raises(ModelError, match=r"models/x\.onnx: does not load"):
        Session(net, "models/x.onnx")


@pytest.mark.parametrize(
    "shape", [(1, len(FEATURES), WINDOW_DAYS + 1), (1, 3, WINDOW_DAYS), (len(FEATURES), WINDOW_DAYS)]
)
def test_windows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="does not run"):
        Session(conv_net()).run(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("old", "new"), [("window", "picture"), ("quantiles", "classes")])
def test_a_model_with_other_names_is_refused(old: str, new: str) -> None:
    model = onnx.load_from_string(conv_net())
    for node in (*model.graph.input, *model.graph.output):
        node.name = new if node.name == old else node.name
    for step in model.graph.node:
        for names in (step.input, step.output):
            names[:] = [new if name == old else name for name in names]
    with pytest.raises(ModelError, match=new):
        Session(model.SerializeToString())


class Windows(CalibrationDataReader):  # type: ignore[misc]  # its base ships no types
    """Calibration windows for onnxruntime's own static quantization."""

    def __init__(self, windows: np.ndarray) -> None:
        self._rest = iter(windows)

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self._rest, None)
        return None if found is None else {"window": found[np.newaxis]}


def test_an_int8_model_runs_close_to_its_float_one(tmp_path: Path) -> None:
    windows = np.random.default_rng(3).normal(0, 1, (32, len(FEATURES), WINDOW_DAYS)).astype(np.float32)
    net = conv_net(4)
    quantize_static(onnx.load_from_string(net), tmp_path / "int8.onnx", Windows(windows))
    int8 = (tmp_path / "int8.onnx").read_bytes()
    kinds = {step.op_type for step in onnx.load_from_string(int8).graph.node}
    assert "QuantizeLinear" in kinds
    outputs = np.concatenate([Session(int8).run(one[np.newaxis]) for one in windows])
    spread = by_hand(net, windows)
    assert not np.array_equal(outputs, Session(net).run(windows))
    np.testing.assert_allclose(outputs, spread, atol=0.05 * float(np.ptp(spread)) + 0.02)
