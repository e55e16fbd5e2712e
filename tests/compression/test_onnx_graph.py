from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tasks.compression.onnx_graph import (
    INPUT,
    export,
    float_convolutions,
    fold_weights,
    integer_convolutions,
    kernels,
    one_thread,
    tidy,
)
from tasks.compression.prune import prune
from tasks.compression.quantize import KEPT_FLOAT, Attempt, QuantizeError, control, quantize
from tasks.compression.refit import refit_last_layer
from tasks.training.nets import Architecture, folded
from tests.compression.settled import settled

SHAPE = Architecture(channels=6, window_days=20, widths=(16, 24, 16), head=16, kernel=3)


def run(model: bytes, windows: np.ndarray) -> np.ndarray:
    answers: np.ndarray = one_thread(model).run(None, {INPUT: windows})[0]
    return answers


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return settled(SHAPE)


@pytest.fixture(scope="module")
def attempts(net: nn.Sequential, shown: np.ndarray) -> list[Attempt]:
    """All settings, because no metric is ever good enough for this judge."""
    seen: list[bytes] = []

    def worse_each_time(model: bytes) -> float:
        seen.append(model)
        return float(2 ** len(seen))

    return quantize(folded(net), shown, list(KEPT_FLOAT), worse_each_time, 0.01)


def test_the_float_file_answers_as_the_net_for_any_batch(net: nn.Sequential, shown: np.ndarray) -> None:
    model = tidy(export(folded(net), 6, 20))
    for count in (1, 2, 37):
        with torch.no_grad():
            expected = net(torch.from_numpy(shown[:count])).numpy()
        assert np.allclose(run(model, shown[:count]), expected, atol=1e-5)
    counted = kernels(model)
    assert float_convolutions(counted) == 4
    assert integer_convolutions(counted) == 0


def test_exporting_twice_gives_the_same_bytes(net: nn.Sequential) -> None:
    assert tidy(export(folded(net), 6, 20)) == tidy(export(folded(net), 6, 20))


def test_a_file_names_nothing_of_the_machine_it_was_made_on(net: nn.Sequential) -> None:
    model = tidy(export(folded(net), 6, 20))
    assert b"/" not in model.replace(b"ai.onnx", b"")[-400:]
    assert b".py" not in model


def quantized_graph(weights: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int, clip: bool) -> onnx.ModelProto:
    """Constant weights behind QuantizeLinear, a Clip as torch adds it, and DequantizeLinear."""
    between = "q0" if clip else "q"
    nodes = [helper.make_node("QuantizeLinear", ["w", "s", "z"], [between], axis=axis)]
    constants = {"w": weights, "s": scale, "z": zero}
    if clip:
        nodes.append(helper.make_node("Clip", ["q0", "low", "high"], ["q"]))
        constants |= {"low": np.array(-127, dtype=np.int8), "high": np.array(127, dtype=np.int8)}
    nodes += [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"], axis=axis),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(weights.shape)) for n in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), axis=st.integers(0, 2), clip=st.booleans(), spread=st.floats(0.01, 1e3))
def test_folding_a_weight_is_exact(seed: int, axis: int, clip: bool, spread: float) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, spread, (4, 5, 3)).astype(np.float32)
    scale = np.asarray(rng.uniform(0.2, 2, weights.shape[axis]) * spread / 100, dtype=np.float32)
    weights[0, 0, 0] = np.float32(2.5) * scale[0]  # half way between two steps
    zero = np.zeros(weights.shape[axis], dtype=np.int8)
    raw = quantized_graph(weights, scale, zero, axis, clip)
    x = np.zeros(weights.shape, dtype=np.float32)
    before = one_thread(raw.SerializeToString()).run(None, {"x": x})[0]
    assert fold_weights(raw) == 1
    assert not any(node.op_type in ("QuantizeLinear", "Clip") for node in raw.graph.node)
    after = one_thread(raw.SerializeToString()).run(None, {"x": x})[0]
    assert np.array_equal(before, after)


def test_the_tidied_integer_file_answers_as_the_raw_export_bit_for_bit(net: nn.Sequential, shown: np.ndarray) -> None:
    from neural_compressor.torch.export import export as prepare_export  # type: ignore[import-untyped]  # untyped
    from neural_compressor.torch.quantization import (  # type: ignore[import-untyped]  # untyped
        StaticQuantConfig,
        convert,
        prepare,
    )

    from tasks.compression.onnx_graph import dynamic_batch

    example = (torch.zeros(2, 6, 20),)
    prepared = prepare(
        prepare_export(folded(net), example, dynamic_shapes=dynamic_batch()), StaticQuantConfig(act_algo="kl")
    )
    prepared(torch.from_numpy(shown))
    raw = export(convert(prepared), 6, 20)
    short = tidy(raw)
    whole = raw.SerializeToString()
    assert np.array_equal(run(short, shown), run(whole, shown))
    assert len(short) < 0.5 * len(whole)


def test_every_convolution_runs_on_integers(attempts: list[Attempt]) -> None:
    counted = kernels(attempts[0].model)
    assert attempts[0].setting == "all"
    assert integer_convolutions(counted) == 4
    assert float_convolutions(counted) == 0


def test_each_setting_keeps_on_floats_what_it_names(attempts: list[Attempt]) -> None:
    assert [attempt.setting for attempt in attempts] == list(KEPT_FLOAT)
    first = kernels(attempts[1].model)
    assert float_convolutions(first) == 1
    assert integer_convolutions(first) == 3
    assert integer_convolutions(kernels(attempts[2].model)) == 4
    assert float_convolutions(kernels(attempts[3].model)) == 1
    assert len({attempt.model for attempt in attempts}) == 4


def test_the_integer_files_stay_close_to_the_net(
    net: nn.Sequential, shown: np.ndarray, attempts: list[Attempt]
) -> None:
    with torch.no_grad():
        expected = net(torch.from_numpy(shown)).numpy()
    span = np.ptp(expected)
    for attempt in attempts:
        assert np.abs(run(attempt.model, shown) - expected).mean() < 0.02 * span
    compared = control(tidy(export(folded(net), 6, 20)), shown)
    assert np.abs(run(compared, shown) - expected).mean() < 0.02 * span
    assert integer_convolutions(kernels(compared)) == 4


def test_tuning_stops_at_the_first_setting_good_enough(net: nn.Sequential, shown: np.ndarray) -> None:
    tried = quantize(folded(net), shown, list(KEPT_FLOAT), lambda _: 1.0, 0.01)
    assert [attempt.setting for attempt in tried] == ["all"]


def test_an_unknown_setting_is_named(net: nn.Sequential, shown: np.ndarray) -> None:
    with pytest.raises(QuantizeError, match="keep_frist"):
        quantize(folded(net), shown, ["keep_frist"], lambda _: 1.0, 0.01)


def test_the_last_layer_is_fitted_to_the_integers_before_it(
    net: nn.Sequential, shown: np.ndarray, attempts: list[Attempt]
) -> None:
    """Against a shifted teacher the fit must find the shift; against itself it must leave no bias."""
    plain = folded(net)
    with torch.no_grad():
        expected = plain(torch.from_numpy(shown)).numpy()
    again = run(refit_last_layer(attempts[0].model, plain, shown), shown)
    assert np.abs((again - expected).mean(axis=0)).max() < 1e-5
    out = plain.get_submodule("out")
    assert isinstance(out, nn.Linear)
    with torch.no_grad():
        out.bias.add_(torch.tensor([1.0, 2.0, 3.0]))
    moved = run(refit_last_layer(attempts[0].model, plain, shown), shown)
    assert np.allclose((moved - again).mean(axis=0), [1, 2, 3], atol=1e-3)
    float_file = tidy(export(plain, 6, 20))
    assert np.allclose(run(refit_last_layer(float_file, plain, shown), shown), run(float_file, shown), atol=1e-4)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_pruning_takes_channels_and_leaves_inputs_and_outputs(
    net: nn.Sequential, shown: np.ndarray, ratio: float
) -> None:
    sample = torch.from_numpy(shown), torch.zeros(len(shown))
    narrow, found = prune(net, SHAPE, ratio, sample)
    assert (found.channels, found.window_days, found.kernel) == (6, 20, 3)
    before, after = (*SHAPE.widths, SHAPE.head), (*found.widths, found.head)
    assert all(0 < small < large for small, large in zip(after, before, strict=True))
    assert sum(after) <= (1 - ratio) * sum(before) + 8 * len(after)
    assert narrow(torch.from_numpy(shown)).shape == (len(shown), 3)
    assert next(net.parameters()).shape[0] == 16
    again, _ = prune(net, SHAPE, ratio, sample)
    assert all(torch.equal(one, two) for one, two in zip(narrow.parameters(), again.parameters(), strict=True))
