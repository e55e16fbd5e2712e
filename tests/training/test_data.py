from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.data import EpochOrder, WindowSet, judges
from tasks.training.windows import WindowsError, open_windows
from tests.training.water_balance import CHANNELS, make_windows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "irrigation"
    make_windows(made, fields=6, mornings=40, window_days=16)
    return made


def test_a_window_holds_the_mornings_up_to_its_own_and_zeros_before_sowing(folder: Path) -> None:
    windows = open_windows(folder)
    features, index = np.load(folder / "features.npy"), np.load(folder / "index.npy")
    chosen = [0, 3, 39, 40, 41, 200, 239]
    gathered = windows.gather(chosen)
    for window, got in zip(chosen, gathered, strict=True):
        assert np.array_equal(got, features[index[window] - 15 : index[window] + 1].T)
    assert not gathered[0, :, :15].any()
    assert gathered[0, CHANNELS.index("grown"), 15] == 1
    assert not gathered[3, :, :12].any()
    assert gathered[4, CHANNELS.index("grown")].sum() == 2


def test_a_batch_is_its_single_windows_together(folder: Path) -> None:
    windows = WindowSet(open_windows(folder))
    features, targets = windows.__getitems__([5, 100, 7])
    for i, window in enumerate([5, 100, 7]):
        one, target = windows[window]
        assert one.equal(features[i])
        assert target.equal(targets[i])


def test_features_stay_on_disk(folder: Path) -> None:
    assert isinstance(open_windows(folder).features, np.memmap)


@given(
    candidates=st.integers(8, 200),
    per_rank=st.integers(1, 8),
    world=st.sampled_from([1, 2, 3, 4]),
    per_epoch=st.integers(1, 300),
    epoch=st.integers(0, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_processes_together_see_what_one_process_sees(
    candidates: int, per_rank: int, world: int, per_epoch: int, epoch: int, seed: int
) -> None:
    windows = np.arange(1000, 1000 + candidates)
    batch = per_rank * world
    if min(candidates, per_epoch) < batch:
        with pytest.raises(WindowsError, match="global_batch"):
            EpochOrder(windows, per_epoch=per_epoch, global_batch=batch, seed=seed, world=world)
        return

    def order(rank: int, world: int) -> list[int]:
        made = EpochOrder(windows, per_epoch=per_epoch, global_batch=batch, seed=seed, rank=rank, world=world)
        made.set_epoch(epoch)
        drawn = list(made)
        assert len(drawn) == len(made)
        return drawn

    alone = np.array(order(0, 1)).reshape(-1, batch)
    shared = [np.array(order(rank, world)).reshape(-1, per_rank) for rank in range(world)]
    assert np.array_equal(np.concatenate(shared, axis=1), alone)
    assert len(alone) == per_epoch // batch
    counts = np.bincount(alone.ravel() - 1000, minlength=candidates)
    assert counts.max() - counts.min() <= 1


def test_epochs_differ() -> None:
    order = EpochOrder(np.arange(64), per_epoch=64, global_batch=8, seed=1)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(WindowsError, match="3 processes"):
        EpochOrder(np.arange(64), per_epoch=64, global_batch=8, seed=1, world=3)


@pytest.mark.parametrize("name", ["features.npy", "index.npy", "targets.npy", "split.npy", "group.npy", "meta.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WindowsError, match=name):
        open_windows(folder)


@pytest.mark.parametrize("name", ["features.npy", "index.npy", "targets.npy", "split.npy", "group.npy", "meta.json"])
def test_a_file_cut_short_is_named(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WindowsError, match=name):
        open_windows(folder)


def test_targets_that_are_no_numbers_are_counted_and_placed(folder: Path) -> None:
    targets = np.load(folder / "targets.npy")
    targets[[17, 30]] = np.nan
    np.save(folder / "targets.npy", targets)
    with pytest.raises(WindowsError, match=r"targets.npy: 2 targets are not numbers, first at window 17"):
        open_windows(folder)


def test_features_that_are_no_numbers_are_placed(folder: Path) -> None:
    features = np.load(folder / "features.npy")
    features[33, 2] = np.inf
    np.save(folder / "features.npy", features)
    with pytest.raises(WindowsError, match=r"features.npy: row 33"):
        open_windows(folder)


def test_an_index_outside_the_rows_is_placed(folder: Path) -> None:
    index = np.load(folder / "index.npy")
    index[4] = 3
    np.save(folder / "index.npy", index)
    with pytest.raises(WindowsError, match=r"index.npy: window 4 ends on row 3"):
        open_windows(folder)


def test_channels_must_be_those_named(folder: Path) -> None:
    np.save(folder / "features.npy", np.load(folder / "features.npy")[:, :-1])
    with pytest.raises(WindowsError, match=rf"{len(CHANNELS)} channels"):
        open_windows(folder)


def test_a_split_without_validation_is_refused(folder: Path) -> None:
    np.save(folder / "split.npy", np.zeros_like(np.load(folder / "split.npy")))
    with pytest.raises(WindowsError, match="no validation window"):
        open_windows(folder)


def test_the_fingerprint_sees_every_file(folder: Path) -> None:
    before = open_windows(folder).fingerprint()
    targets = np.load(folder / "targets.npy")
    targets[0] += 1
    np.save(folder / "targets.npy", targets)
    assert open_windows(folder).fingerprint() != before


@given(n=st.integers(1, 500), most=st.integers(1, 100))
def test_judges_of_an_epoch_are_spread_over_all_and_none_is_taken_twice(n: int, most: int) -> None:
    validation = np.arange(1000, 1000 + n)
    chosen = judges(validation, most)
    assert len(chosen) == min(n, most)
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen.tolist()) <= set(validation.tolist())
    if 1 < most < n:
        assert chosen[0] == validation[0]
        assert chosen[-1] == validation[-1]
        assert np.ptp(np.diff(chosen)) <= 1
