from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.training.calibrate import fold_into
from tasks.training.nets import Architecture, build, folded, parameter_count, pinball, start_at_quantiles
from tasks.training.quantiles import LEVELS, Stretch, crossed_coverage, find_stretch, score
from tasks.training.store import NetError, load_net, save_net

SMALL = Architecture(channels=5, window_days=20, widths=(8, 12), head=12, kernel=3)


def warmed(architecture: Architecture) -> nn.Sequential:
    """A net whose BatchNorms have seen something."""
    torch.manual_seed(3)
    net = build(architecture)
    for _ in range(5):
        net(torch.randn(32, architecture.channels, architecture.window_days) * 2 + 1)
    return net.eval()


@pytest.mark.parametrize("days", [8, 9, 31, 64])
@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 16, 24, 8)])
def test_any_window_ends_in_three_quantiles(days: int, widths: tuple[int, ...]) -> None:
    net = build(Architecture(channels=4, window_days=days, widths=widths, head=8, kernel=5))
    assert net(torch.randn(6, 4, days)).shape == (6, 3)


def test_folding_leaves_no_batchnorm_and_the_same_answers() -> None:
    net = warmed(SMALL)
    plain = folded(net)
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in plain.modules())
    x = torch.randn(16, 5, 20)
    assert torch.allclose(plain(x), net(x), atol=1e-5)
    assert parameter_count(net) == sum(parameter.numel() for parameter in plain.parameters())


def test_an_untrained_net_starts_near_the_quantiles_of_the_targets() -> None:
    net = build(SMALL)
    targets = torch.linspace(0, 1, 1001)
    start_at_quantiles(net, targets)
    out = net.get_submodule("out")
    assert isinstance(out, nn.Linear)
    assert torch.allclose(out.bias.detach(), torch.tensor([0.1, 0.5, 0.9]), atol=1e-3)


def test_pinball_is_least_at_the_quantiles() -> None:
    targets = torch.linspace(0, 1, 2001)

    def loss(low: float, median: float, high: float) -> float:
        return float(pinball(torch.tensor([[low, median, high]]).expand(2001, 3), targets))

    best = loss(0.1, 0.5, 0.9)
    assert best < min(loss(0.15, 0.5, 0.9), loss(0.05, 0.5, 0.9), loss(0.1, 0.55, 0.9), loss(0.1, 0.5, 0.85))


def test_a_net_comes_back_from_disk_and_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    net = warmed(SMALL)
    save_net(tmp_path / "one" / "trained", net, SMALL, {"unit": "mm"})
    save_net(tmp_path / "two" / "trained", net, SMALL, {"unit": "mm"})
    back, architecture, plain = load_net(tmp_path / "one" / "trained")
    x = torch.randn(4, 5, 20)
    assert torch.equal(back(x), net(x))
    assert architecture == SMALL
    assert plain["unit"] == "mm"
    for name in ("net.safetensors", "net.json"):
        assert (tmp_path / "one" / "trained" / name).read_bytes() == (tmp_path / "two" / "trained" / name).read_bytes()


@pytest.mark.parametrize("name", ["net.safetensors", "net.json"])
def test_a_damaged_net_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "irrigation" / "trained"
    save_net(folder, warmed(SMALL), SMALL, {})
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-20])
    with pytest.raises(NetError, match="irrigation"):
        load_net(folder)
    (folder / name).unlink()
    with pytest.raises(NetError, match=name):
        load_net(folder)


def narrow_band(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of a band too narrow below and too wide above, with truths."""
    rng = np.random.default_rng(seed)
    median = rng.normal(0, 3, count)
    spread = rng.uniform(0.5, 2, count)
    truths = median + rng.normal(0, 1, count) * spread
    return np.stack([median - 0.7 * spread, median, median + 2.5 * spread], axis=1), truths


def test_the_stretch_found_gives_the_share_wanted_on_other_data() -> None:
    stretch = find_stretch(*narrow_band(1, 20_000))
    assert stretch.lower > 1.5
    assert stretch.upper < 0.7
    quantiles, truths = narrow_band(2, 20_000)
    band = stretch.apply(quantiles)
    assert abs((truths < band[:, 0]).mean() - 0.1) < 0.01
    assert abs((truths > band[:, 2]).mean() - 0.1) < 0.01
    assert abs(crossed_coverage(quantiles, truths, np.arange(len(truths)) % 5) - 0.8) < 0.01


def test_a_band_without_width_is_left_alone() -> None:
    quantiles = np.zeros((50, 3))
    assert find_stretch(quantiles, np.linspace(-1, 1, 50)) == Stretch(1.0, 1.0)


def test_the_stretch_folds_into_the_weights() -> None:
    net, stretch = warmed(SMALL), Stretch(lower=1.7, upper=0.6)
    x = torch.randn(64, 5, 20)
    with torch.no_grad():
        before = net(x).numpy()
        fold_into(net, stretch)
        after = net(x).numpy()
    assert np.allclose(after, stretch.apply(before), atol=1e-5)


def test_the_score_is_in_the_targets_unit_and_sorts_crossed_quantiles() -> None:
    quantiles, truths = narrow_band(3, 500)
    plain, scaled = score(quantiles, truths, 1.0), score(quantiles, truths, 50.0)
    assert scaled.pinball == pytest.approx(50 * plain.pinball)
    assert scaled.coverage == plain.coverage
    assert score(quantiles[:, ::-1], truths, 1.0) == plain
    error = truths[:, None] - quantiles
    assert plain.pinball == pytest.approx(float(np.where(error > 0, LEVELS * error, (LEVELS - 1) * error).mean()))
