from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.training.calibrate import answers, keep_band
from tasks.training.crossfit import cross_stretch, unseen_answers
from tasks.training.fit import Plan
from tasks.training.nets import Architecture, build
from tasks.training.windows import Windows, open_windows
from tests.training.water_balance import make_windows

PLAN = Plan(epochs=2, windows_per_epoch=256, global_batch=64, learning_rate=2e-3, weight_decay=0.0, patience=5, seed=3)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    folder: Path = tmp_path_factory.mktemp("project") / "windows"
    make_windows(folder, fields=10, mornings=60)
    return open_windows(folder)


def architecture(windows: Windows) -> Architecture:
    return Architecture(len(windows.channels), windows.window_days, (8, 8), 8, 3)


def test_factors_repeat_and_are_sane(windows: Windows) -> None:
    first = cross_stretch(windows, architecture(windows), PLAN, folds=2)
    assert first == cross_stretch(windows, architecture(windows), PLAN, folds=2)
    assert set(first) == {"maize"}
    assert 0.2 <= first["maize"].lower <= 5.0
    assert 0.2 <= first["maize"].upper <= 5.0


def test_every_known_window_is_answered_once_by_a_net_that_did_not_see_its_season(windows: Windows) -> None:
    said = unseen_answers(windows, architecture(windows), PLAN, folds=2)
    known = np.concatenate([windows.training, windows.validation])
    np.testing.assert_array_equal(np.sort(said.which), np.sort(known))
    assert (np.diff(said.quantiles, axis=1) >= 0).all()


def test_the_band_of_seasons_left_out_holds_its_share(windows: Windows) -> None:
    said = unseen_answers(windows, architecture(windows), PLAN, folds=2)
    stretch = cross_stretch(windows, architecture(windows), PLAN, folds=2)["maize"]
    band, truth = np.sort(stretch.apply(said.quantiles), axis=1), windows.targets[said.which]
    assert ((truth >= band[:, 0]) & (truth <= band[:, 2])).mean() == pytest.approx(0.8, abs=0.02)


def test_a_net_takes_over_its_teachers_band(windows: Windows) -> None:
    import torch

    torch.manual_seed(0)
    teacher, net = build(architecture(windows)).eval(), build(architecture(windows)).eval()
    before = answers(net, windows, windows.validation)
    keep_band(net, teacher, windows)
    after, wanted = answers(net, windows, windows.validation), answers(teacher, windows, windows.validation)
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=1e-5)
    for side in (0, 2):
        assert np.abs(after[:, side] - after[:, 1]).mean() == pytest.approx(
            np.abs(wanted[:, side] - wanted[:, 1]).mean(), rel=1e-3
        )
