from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from headland_edge.bundle import Bundle, open_bundle, write_bundle

from tasks.registry.gate import GateError, judge, loss
from tasks.training.windows import open_windows
from tests.edge.small_bundle import WINDOW_DAYS, conv_net, parts
from tests.training.water_balance import make_windows


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "windows"
    make_windows(folder / "irrigation", fields=10, mornings=40, window_days=WINDOW_DAYS)
    return folder


def bundle(path: Path, counter: int, quantiles: tuple[float, float, float]) -> Bundle:
    manifest, members = parts({"irrigation": conv_net(quantiles=quantiles)})
    write_bundle(path, {**manifest, "release": {"counter": counter, "as_of": 2009}}, members)
    return open_bundle(path)


GOOD, BAD = (0.2, 0.4, 0.6), (2.0, 3.0, 4.0)


def test_the_loss_is_that_of_the_validation_truths(windows: Path, tmp_path: Path) -> None:
    data = open_windows(windows / "irrigation")
    truth, said = data.targets[data.validation].astype(float), np.array(GOOD)
    error = truth[:, None] - said
    expected = np.maximum(np.array([0.1, 0.5, 0.9]) * error, (np.array([0.1, 0.5, 0.9]) - 1) * error).mean()
    found = loss(bundle(tmp_path / "a.tar", 1, GOOD), "irrigation", data, windows / "irrigation")
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_first_release_passes_and_a_better_one_after_it(windows: Path, tmp_path: Path) -> None:
    first, second = bundle(tmp_path / "a.tar", 1, BAD), bundle(tmp_path / "b.tar", 2, GOOD)
    assert judge(first, None, windows, 0.05).passed
    verdict = judge(second, first, windows, 0.05)
    assert verdict.passed
    assert verdict.pinball["irrigation"]["candidate"] < verdict.pinball["irrigation"]["champion"]


def test_a_worse_one_is_refused_by_name(windows: Path, tmp_path: Path) -> None:
    verdict = judge(bundle(tmp_path / "b.tar", 2, BAD), bundle(tmp_path / "a.tar", 1, GOOD), windows, 0.05)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("irrigation: error +")


def test_a_counter_that_does_not_rise_is_refused(windows: Path, tmp_path: Path) -> None:
    verdict = judge(bundle(tmp_path / "b.tar", 1, GOOD), bundle(tmp_path / "a.tar", 1, GOOD), windows, 0.05)
    assert verdict.reasons == ("release counter 1 is not above the champion's 1: raise release.minor",)


def test_an_answer_that_is_no_number_is_refused(windows: Path, tmp_path: Path) -> None:
    verdict = judge(bundle(tmp_path / "b.tar", 2, (float("nan"),) * 3), None, windows, 0.05)
    assert verdict.reasons == ("irrigation: the candidate answers with what is no number",)


def test_without_windows_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"no such file"):
        judge(bundle(tmp_path / "b.tar", 2, GOOD), None, tmp_path, 0.05)
