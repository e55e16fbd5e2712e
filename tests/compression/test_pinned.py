from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from headland_edge.features import FEATURES_VERSION
from headland_edge.patches import _ways
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from tasks.compression.base import BASE, Base, BaseError, open_base
from tasks.compression.compress import compress
from tasks.compression.from_base import learn_on
from tasks.compression.ladder import Job, open_job
from tasks.compression.onnx_graph import INPUT, export, one_thread, tidy
from tasks.compression.pinned import PinError, PinnedConv, as_floats, integers_of, learner, rewritten
from tasks.compression.quantize import control, quantize
from tasks.params import load
from tasks.training.nets import Architecture, build, folded
from tasks.training.store import save_net
from tasks.training.train import train
from tasks.training.trainer import ONE_PROCESS
from tasks.training.windows import Windows, open_windows
from tests.compression.settled import settled
from tests.edge.small_bundle import conv_net
from tests.training.project import make_project

SHAPE = Architecture(channels=6, window_days=20, widths=(16, 24), head=16, kernel=3)


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return settled(SHAPE)


@pytest.fixture(scope="module")
def released(net: nn.Sequential, shown: np.ndarray) -> bytes:
    """The int8 file of an earlier release."""
    return quantize(folded(net), shown, ["all"], lambda model: float(len(model)), 0.01)[0].model


def tensors(model: bytes) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}


def last(net: nn.Sequential) -> nn.Linear:
    out = net.get_submodule("out")
    assert isinstance(out, nn.Linear)
    return out


def moved(released: bytes, share: float) -> bytes:
    """The file with a share of its integers moved by one step, and other floats."""
    learning = learner(released)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in learning.children():
            if isinstance(layer, PinnedConv):
                layer.move.copy_((torch.rand(layer.move.shape, generator=generator) < share).float())
                layer.bias.add_(0.01)
        last(learning).bias.add_(0.01)
    return rewritten(released, learning, last(learning))


def test_the_learner_answers_as_the_device_does(released: bytes, shown: np.ndarray) -> None:
    answers = one_thread(released).run(None, {INPUT: shown})[0]
    with torch.no_grad():
        said = learner(released)(torch.from_numpy(shown)).numpy()
    assert np.abs(said - answers).max() < 0.01 * np.ptp(answers)
    assert np.abs(said - answers).mean() < 0.001 * np.ptp(answers)


def test_what_learned_nothing_is_the_same_file(released: bytes) -> None:
    learning = learner(released, steps_per_unit=40.0)
    assert rewritten(released, learning, last(learning)) == released


def test_scales_zero_points_and_layout_stay(released: bytes) -> None:
    new = moved(released, 0.1)
    before, after = tensors(released), tensors(new)
    assert len(new) == len(released)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {before[name].ndim for name in changed if before[name].dtype == np.int8} == {3}
    graph = onnx.load_from_string(released).graph
    pinned = {name for node in graph.node if node.op_type.endswith("Linear") for name in node.input[1:]}
    assert pinned
    assert not changed & pinned
    steps = integers_of(new).astype(int) - integers_of(released)
    assert 0.05 < np.mean(steps != 0) < 0.15
    assert set(np.unique(steps)) == {0, 1}


def test_the_floats_are_what_the_integers_stand_for(released: bytes, shown: np.ndarray) -> None:
    new = moved(released, 0.1)
    answers = one_thread(new).run(None, {INPUT: shown})[0]
    with torch.no_grad():
        said = as_floats(learner(new))(torch.from_numpy(shown)).numpy()
    assert np.abs(said - answers).max() < 0.05 * np.ptp(answers)


def test_an_update_is_a_fraction_of_the_whole(released: bytes) -> None:
    new = moved(released, 0.1)
    size = {name: len(packed) for name, packed in _ways(released, new)}
    assert size["subtract"] < 0.35 * len(new)
    assert size["subtract"] < size["dictionary"]


@given(
    st.lists(st.integers(-128, 127), min_size=4, max_size=4),
    st.lists(st.floats(-400, 400, width=32), min_size=4, max_size=4),
    st.sampled_from([1.0, 8.0]),
)
def test_weights_move_by_whole_steps_within_8_bits(steps: list[int], moves: list[float], per_unit: float) -> None:
    layer = PinnedConv(torch.tensor(steps).reshape(2, 2, 1), torch.tensor([0.5, 0.25]), torch.zeros(2), 1, 0, per_unit)
    with torch.no_grad():
        layer.move.copy_(torch.tensor(moves).reshape(2, 2, 1))
    held = layer.whole_steps().detach().numpy().ravel()
    wanted = np.array(steps, np.float32) + np.array(moves, np.float32) * np.float32(per_unit)
    assert np.array_equal(held, np.rint(np.clip(wanted, -128, 127)))


def test_gradients_reach_every_weight(released: bytes, shown: np.ndarray) -> None:
    learning = learner(released)
    learning(torch.from_numpy(shown)).square().mean().backward()
    for name, parameter in learning.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_files_of_another_form_are_refused(net: nn.Sequential, shown: np.ndarray) -> None:
    floats = tidy(export(folded(net), 6, 20))
    with pytest.raises(PinError, match="does not come from a DequantizeLinear"):
        learner(floats)
    with pytest.raises(PinError, match="does not end in a layer on floats"):
        learner(control(floats, shown))


def put_base(root: Path, model: bytes, **changes: Any) -> None:
    """``data/base/release`` with one model; ``changes`` of base.json, those of its model under ``irrigation``."""
    folder = root / BASE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "irrigation.onnx").write_bytes(model)
    windows = open_windows(root / "data/windows/irrigation")
    entry = {
        "file": "irrigation.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        "kind": "int8",
        "window_days": windows.window_days,
        "target": vars(windows.target),
        **changes.pop("irrigation", {}),
    }
    described = {
        "counter": 2009000,
        "bundle_sha256": "ab" * 32,
        "features_version": FEATURES_VERSION,
        "channels": list(windows.channels),
        "models": {"irrigation": entry},
    }
    (folder / "base.json").write_text(json.dumps({**described, **changes}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def opened(project: Path) -> Callable[[], Base | str]:
    windows: Windows = open_windows(project / "data/windows/irrigation")
    return lambda: open_base(project / BASE, "irrigation", windows)


def test_a_base_that_fits_is_opened(project: Path, opened: Callable[[], Base | str]) -> None:
    put_base(project, b"onnx")
    assert opened() == Base(2009000, "ab" * 32, b"onnx")


def test_nothing_to_go_on_from_is_told(project: Path, opened: Callable[[], Base | str]) -> None:
    assert "no earlier release" in str(opened())
    put_base(project, b"onnx", models={})
    assert opened() == "release 2009000 has no model irrigation"
    put_base(project, b"onnx", irrigation={"kind": "fp32"})
    assert "no scales to pin" in str(opened())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ["rain_mm"]}, "reads other channels"),
        ({"irrigation": {"window_days": 64}}, "sees 64 mornings in irrigation, not 16"),
        ({"irrigation": {"target": {"name": "lai"}}}, "estimates {'name': 'lai'}"),
        ({"irrigation": {"sha256": "0" * 64}}, "is not the file that base.json names"),
        ({"irrigation": {"file": "gone.onnx"}}, "cannot be read"),
        ({"counter": "new"}, "damaged"),
        ({"models": []}, "damaged"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(
    project: Path, opened: Callable[[], Base | str], changes: dict[str, Any], message: str
) -> None:
    put_base(project, b"onnx", **changes)
    with pytest.raises(BaseError) as refused:
        opened()
    assert message in str(refused.value)
    assert str(BASE) in str(refused.value)
    assert "from_base: false" in str(refused.value) or "headland fleet base" in str(refused.value)


def test_a_base_of_other_features_is_refused(project: Path, opened: Callable[[], Base | str]) -> None:
    meta = project / "data/windows/irrigation/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "features_version": FEATURES_VERSION + 1}))
    put_base(project, b"onnx")
    with pytest.raises(BaseError, match=f"of version {FEATURES_VERSION}, these windows are of version"):
        opened()


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose first release was made the ordinary way."""
    root = make_project(tmp_path_factory.mktemp("season"), compression={"max_metric_loss_frac": 0.5})
    params = load(root / "params.yaml")
    train("irrigation", params, root, ONE_PROCESS)
    compress("irrigation", params, root)
    return root


def compressed(root: Path) -> Path:
    return root / "data/models/irrigation/compressed"


def next_season(season: Path, root: Path, compression: dict[str, Any] | None = None, **changes: Any) -> Path:
    """More fields than before, the trained net of before as teacher, and the first release as base."""
    settings = {"max_metric_loss_frac": 0.5, "from_base": True, "base_epochs": 2, **(compression or {})}
    make_project(root, fields=20, compression=settings, **changes)
    trained = root / "data/models/irrigation/trained"
    trained.parent.mkdir(parents=True)
    trained.symlink_to(season / "data/models/irrigation/trained")
    put_base(root, (compressed(season) / "shipped.onnx").read_bytes())
    return root


@pytest.mark.slow
def test_a_release_that_is_based_on_another_is_a_small_update(season: Path, tmp_path: Path) -> None:
    root = next_season(season, tmp_path / "next")
    compress("irrigation", load(root / "params.yaml"), root)
    old, new = ((compressed(each) / "shipped.onnx").read_bytes() for each in (season, root))
    choice = json.loads((compressed(root) / "choice.json").read_text())
    figures = json.loads((root / "metrics/compress/irrigation.json").read_text())
    assert choice["shipped"] == "int8"
    assert choice["based_on"]["counter"] == 2009000
    assert choice["based_on"] == figures["based_on"]
    assert len(new) == len(old)
    assert new != old
    assert np.mean(integers_of(new) != integers_of(old)) == pytest.approx(choice["based_on"]["moved_frac"], abs=1e-4)
    assert figures["int8"]["metric"] < choice["based_on"]["base_metric"]
    size = {name: len(packed) for name, packed in _ways(old, new)}
    assert size["subtract"] < 0.5 * len(new)


@pytest.mark.slow
def test_a_base_that_learns_too_little_gives_way_to_a_release_made_anew(season: Path, tmp_path: Path) -> None:
    strict = {"max_metric_loss_frac": 0.01, "base_epochs": 1, "base_reach_steps": 0.01, "fallback": ["all"]}
    root = next_season(season, tmp_path / "strict", compression=strict, model={"prune_ratio": 0.0})
    spoilt = learner((compressed(season) / "shipped.onnx").read_bytes())
    with torch.no_grad():
        last(spoilt).weight.mul_(-3.0)
    put_base(root, rewritten((compressed(season) / "shipped.onnx").read_bytes(), spoilt, last(spoilt)))
    compress("irrigation", load(root / "params.yaml"), root)
    choice = json.loads((compressed(root) / "choice.json").read_text())
    assert "based_on" not in choice
    assert "int8 loses" in choice["not_based"]
    assert choice["setting"] == "all"


@pytest.mark.slow
def test_without_from_base_a_base_changes_nothing(season: Path, tmp_path: Path) -> None:
    root = make_project(tmp_path / "plain", compression={"max_metric_loss_frac": 0.5})
    (root / "data/models/irrigation").mkdir(parents=True)
    (root / "data/models/irrigation/trained").symlink_to(season / "data/models/irrigation/trained")
    put_base(root, (compressed(season) / "shipped.onnx").read_bytes())
    compress("irrigation", load(root / "params.yaml"), root)
    files = {file.name: file.read_bytes() for file in compressed(season).iterdir()}
    assert {file.name: file.read_bytes() for file in compressed(root).iterdir()} == files


def job_of(root: Path, **changes: Any) -> Job:
    """A compression about to start, of a net that was not trained."""
    make_project(root, **changes)
    params, windows = load(root / "params.yaml"), open_windows(root / "data/windows/irrigation")
    widths = params.model["irrigation"].widths
    shape = Architecture(len(windows.channels), windows.window_days, widths, widths[-1], 3)
    save_net(root / "data/models/irrigation/trained", build(shape), shape, {})
    return open_job("irrigation", params, root)


def test_a_base_of_another_structure_is_refused(released: bytes, tmp_path: Path) -> None:
    narrow = job_of(tmp_path / "narrow", model={"widths": [16, 16]})
    with pytest.raises(BaseError, match=r"release 7 has widths \[16, 24\], kernel 3, params.yaml widths \[16, 16\]"):
        learn_on(narrow, Base(7, "ab" * 32, released))
    with pytest.raises(BaseError, match="irrigation of release 7 has a layer of type Abs"):
        learn_on(narrow, Base(7, "ab" * 32, conv_net()))
    with pytest.raises(BaseError, match="from_base: false"):
        learn_on(narrow, Base(7, "ab" * 32, b"no onnx"))


@pytest.mark.slow
def test_a_base_with_layers_on_floats_gives_way_to_a_release_made_anew(season: Path, tmp_path: Path) -> None:
    """A release whose first layer had to stay on floats must not stop the next season."""
    settings = {"max_metric_loss_frac": 0.5, "fallback": ["keep_first"]}
    mixed = make_project(tmp_path / "mixed", compression=settings)
    (mixed / "data/models/irrigation").mkdir(parents=True)
    (mixed / "data/models/irrigation/trained").symlink_to(season / "data/models/irrigation/trained")
    compress("irrigation", load(mixed / "params.yaml"), mixed)
    assert json.loads((compressed(mixed) / "choice.json").read_text())["kind"] == "int8"
    root = next_season(season, tmp_path / "next")
    put_base(root, (compressed(mixed) / "shipped.onnx").read_bytes())
    compress("irrigation", load(root / "params.yaml"), root)
    choice = json.loads((compressed(root) / "choice.json").read_text())
    assert "irrigation of release 2009000 has a layer on floats" in choice["not_based"]
    assert choice["shipped"] == "int8"
