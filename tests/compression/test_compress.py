from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.compression.choose import Candidate, Candidates, Name, choose
from tasks.compression.onnx_graph import integer_convolutions, one_thread
from tasks.training.quantiles import Score
from tests.training.project import compress_here, make_project, run_stage, train_here

COMPRESS = "tasks.compression.compress"


def metrics(root: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((root / "metrics/compress/irrigation.json").read_text())
    return plain


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_project(tmp_path_factory.mktemp("compressed"), compression={"max_metric_loss_frac": 0.5})
    train_here(root)
    compress_here(root)
    return root


def test_the_integer_file_ships_and_answers(compressed: Path) -> None:
    folder = compressed / "data/models/irrigation/compressed"
    choice = json.loads((folder / "choice.json").read_text())
    assert (choice["shipped"], choice["kind"]) == ("int8", "int8")
    assert (folder / "shipped.onnx").read_bytes() == (folder / "int8.onnx").read_bytes()
    session = one_thread((folder / "shipped.onnx").read_bytes())
    assert session.get_inputs()[0].name == "window"
    channels = len(choice["channels"])
    (answer,) = session.run(["quantiles"], {"window": np.zeros((1, channels, 16), dtype=np.float32)})
    assert answer.shape == (1, 3)
    assert np.isfinite(answer).all()


def test_the_metrics_hold_each_file(compressed: Path) -> None:
    figures = metrics(compressed)
    folder = compressed / "data/models/irrigation/compressed"
    for name in ("fp32", "pruned", "int8", "control"):
        assert figures[name]["size_bytes"] == (folder / f"{name}.onnx").stat().st_size
        assert 0 < figures[name]["latency_p50_ms"] <= figures[name]["latency_p99_ms"]
    sizes = [figures[name]["size_bytes"] for name in ("fp32", "pruned", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert figures["fp32"]["parameters"] > figures["pruned"]["parameters"] == figures["int8"]["parameters"]
    assert integer_convolutions(figures["int8"]["kernels"]) == 3
    assert figures["loss_frac"] == pytest.approx(figures["int8"]["metric"] / figures["fp32"]["metric"] - 1)
    trained = json.loads((compressed / "metrics/train/irrigation.json").read_text())
    assert figures["fp32"]["metric"] == pytest.approx(trained["calibrated"]["pinball"], rel=1e-4)


@pytest.mark.slow
def test_compressing_twice_gives_the_same_bytes(compressed: Path) -> None:
    folder = compressed / "data/models/irrigation/compressed"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    run_stage(compressed, COMPRESS)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.slow
def test_the_float_net_ships_when_nothing_smaller_may(tmp_path: Path) -> None:
    """Without a single loss allowed and a net barely trained, integers lose; the unpruned net is no smaller."""
    root = make_project(
        tmp_path / "strict",
        compression={"max_metric_loss_frac": 0.0, "fallback": ["all"]},
        model={"prune_ratio": 0.0, "epochs": 6},
    )
    train_here(root)
    compress_here(root)
    folder = root / "data/models/irrigation/compressed"
    choice, figures = json.loads((folder / "choice.json").read_text()), metrics(root)
    lossless = [n for n in ("int8", "control") if max(figures[n]["loss_frac"], figures["int8_loss_frac"]) <= 0]
    assert choice["shipped"] == (lossless[0] if lossless else "fp32")
    assert (folder / "shipped.onnx").read_bytes() == (folder / f"{choice['shipped']}.onnx").read_bytes()


def candidate(name: Name, metric: float, size: int, floats: int = 0) -> Candidate:
    counted = {"QLinearConv": 5 - floats, "FusedConv": floats} if name in ("int8", "control") else {"FusedConv": 5}
    return Candidate(name, Score(metric, metric, 0.8, 1.0), counted, 100, b"x" * size)


def four(int8: float = 1.0, control: float = 1.0, pruned: float = 1.0, floats: int = 0, size: int = 10) -> Candidates:
    return {
        "fp32": candidate("fp32", 1.0, 100),
        "pruned": candidate("pruned", pruned, 40),
        "int8": candidate("int8", int8, size, floats),
        "control": candidate("control", control, 11),
    }


def test_integers_ship_if_they_lose_no_more_than_allowed() -> None:
    assert choose(four(int8=1.0099), "int8", 0.01).name == "int8"
    assert choose(four(int8=1.0101), "int8", 0.01).name == "control"


def test_the_pruned_net_ships_if_integers_lose_too_much() -> None:
    choice = choose(four(int8=1.02, control=1.03, pruned=1.005), "int8", 0.01)
    assert choice.name == "pruned"
    assert "int8 loses 2.00%" in choice.reason


def test_the_trained_net_ships_if_all_lose_too_much() -> None:
    choice = choose(four(int8=1.02, control=1.03, pruned=1.5), "int8", 0.01)
    assert choice.name == "fp32"
    for name in ("int8", "control", "pruned"):
        assert name in choice.reason


def test_integers_that_lose_against_the_net_they_were_made_from_are_refused() -> None:
    assert choose(four(int8=1.0, control=0.95, pruned=0.95), "int8", 0.01).name == "control"


def test_integers_that_run_on_floats_are_refused() -> None:
    assert choose(four(floats=1), "int8", 0.01).name == "int8"
    choice = choose(four(floats=2), "int8", 0.01)
    assert choice.name == "control"
    assert "2 of 5 convolutions on floats" in choice.reason


def test_integers_that_are_no_smaller_are_refused() -> None:
    assert choose(four(size=40), "int8", 0.01).name == "control"


def test_the_best_is_the_lowest_metric_of_those_allowed() -> None:
    assert choose(four(int8=1.005, control=1.004, pruned=1.001), "best", 0.01).name == "fp32"
    assert choose(four(int8=1.0, control=0.999, pruned=1.001), "best", 0.01).name == "control"


def test_a_metric_that_is_no_number_never_ships() -> None:
    assert choose(four(int8=float("nan"), control=1.1, pruned=1.1), "int8", 0.01).name == "fp32"
