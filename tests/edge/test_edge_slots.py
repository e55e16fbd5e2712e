from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from headland_edge.home import Home
from headland_edge.slots import MAX_TRIAL_STARTS, SlotError, Slots, clear_leftovers, slots_locked
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule


def bundle(counter: int) -> tuple[bytes, str, int]:
    data = f"release {counter}".encode() * 100
    return data, hashlib.sha256(data).hexdigest(), counter


def running(root: Path) -> int | None:
    """Counter of what a fresh process would run, its bytes checked against what they should be."""
    booted = Slots(root).boot()
    if booted is None:
        return None
    assert booted.path.read_bytes() == bundle(booted.counter)[0]
    return booted.counter


def with_release(root: Path, counter: int) -> Slots:
    slots = Slots(root)
    slots.begin_trial(slots.install(*bundle(counter)))
    slots.boot()
    slots.confirm()
    return slots


def test_nothing_installed_runs_nothing(tmp_path: Path) -> None:
    assert Slots(tmp_path / "slots").boot() is None


def test_a_release_on_trial_runs_and_stays_once_confirmed(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    booted = slots.boot()
    assert booted is not None
    assert (booted.counter, booted.on_trial) == (2, True)
    slots.confirm()
    again = Slots(tmp_path).boot()
    assert again is not None
    assert (again.counter, again.on_trial) == (2, False)


def test_a_crash_loop_returns_to_the_release_before_and_is_not_forgotten(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    assert [running(tmp_path) for _ in range(MAX_TRIAL_STARTS)] == [2] * MAX_TRIAL_STARTS
    slots = Slots(tmp_path)
    booted = slots.boot()
    assert booted is not None
    assert booted.counter == 1
    assert "release 2 was given up" in booted.events[0]
    assert bundle(2)[1] in slots.bad
    assert running(tmp_path) == 1


def test_a_crash_loop_without_a_release_before_goes_on(tmp_path: Path) -> None:
    slots = Slots(tmp_path)
    slots.begin_trial(slots.install(*bundle(1)))
    assert [running(tmp_path) for _ in range(MAX_TRIAL_STARTS + 2)] == [1] * (MAX_TRIAL_STARTS + 2)


def test_rolling_back_leaves_the_floor_alone_and_a_signed_floor_only_rises(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.raise_floor(1)
    slots.begin_trial(slots.install(*bundle(2)))
    slots.boot()
    booted = slots.roll_back("advice was late")
    assert booted is not None
    assert (booted.counter, slots.floor) == (1, 1)
    slots.raise_floor(0)
    assert Slots(tmp_path).floor == 1


def test_while_a_trial_is_under_way_nothing_is_installed_over_the_way_back(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    with pytest.raises(SlotError, match="on trial"):
        slots.install(*bundle(3))


def test_a_bundle_that_is_not_the_one_signed_is_not_written(tmp_path: Path) -> None:
    data, _, counter = bundle(1)
    with pytest.raises(SlotError, match="hash"):
        Slots(tmp_path).install(data, "0" * 64, counter)
    assert not list(tmp_path.rglob("bundle.tar"))


@pytest.mark.parametrize("name", ["state.json", "a/bundle.tar", "b/bundle.tar", "a/receipt.json", "b/receipt.json"])
def test_a_flipped_byte_anywhere_leaves_a_verified_release_running(tmp_path: Path, name: str) -> None:
    slots = with_release(tmp_path / "good", 1)
    slots.begin_trial(slots.install(*bundle(2)))
    slots.boot()
    slots.confirm()
    size = (tmp_path / "good" / name).stat().st_size
    for at in sorted({*range(0, size, 37), size - 1}):
        folder = tmp_path / f"flipped{at}"
        shutil.copytree(tmp_path / "good", folder)
        data = bytearray((folder / name).read_bytes())
        data[at] ^= 0x10
        (folder / name).write_bytes(data)
        assert running(folder) in (1, 2)
        update = Slots(folder)
        update.boot()
        if update.on_trial:
            update.confirm()
        update.begin_trial(update.install(*bundle(3)))
        assert running(folder) == 3


def test_with_both_states_lost_what_was_confirmed_comes_back_before_what_was_not(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.install(*bundle(2))
    for file in tmp_path.glob("state*.json"):
        file.unlink()
    assert running(tmp_path) == 1


def test_a_release_that_was_given_up_does_not_come_back_when_the_state_is_lost(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    slots.boot()
    slots.roll_back("wrong")
    for file in tmp_path.glob("state*.json"):
        file.unlink()
    assert running(tmp_path) == 1


def test_an_interrupted_first_install_runs_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bundle.tar").write_bytes(bundle(1)[0][:50])
    (tmp_path / "a" / ".bundle.tar.x").write_bytes(b"half")
    assert running(tmp_path) is None
    assert clear_leftovers(tmp_path) == 1
    slots = Slots(tmp_path)
    slots.begin_trial(slots.install(*bundle(1)))
    assert running(tmp_path) == 1


def test_a_release_that_is_only_not_wanted_is_given_up_without_being_held_bad(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    slots.boot()
    Slots(tmp_path).abandon("another is wanted")
    slots = Slots(tmp_path)
    assert (running(tmp_path), slots.on_trial, slots.bad) == (1, False, frozenset())
    kept = slots.holding(bundle(2)[1])
    assert kept == "b"
    slots.begin_trial(kept)
    assert running(tmp_path) == 2


def test_what_is_whole_is_not_written_over_when_the_slot_that_should_run_is_damaged(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    slots.boot()
    slots.confirm()
    (tmp_path / "b" / "bundle.tar").write_bytes(b"damaged")
    slots = Slots(tmp_path)
    slots.begin_trial(slots.install(*bundle(3)))
    assert Slots(tmp_path).roll_back("wrong").counter == 1  # type: ignore[union-attr]  # None fails as well


def test_a_release_marked_bad_is_remembered_until_it_is_forgiven(tmp_path: Path) -> None:
    slots = with_release(tmp_path, 1)
    slots.mark_bad(bundle(2)[1])
    slots.mark_bad(bundle(2)[1])
    assert Slots(tmp_path).bad == {bundle(2)[1]}
    slots.forgive()
    assert Slots(tmp_path).bad == frozenset()


def test_one_process_at_a_time_holds_the_slots_and_a_kill_frees_them(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from headland_edge.home import Home; from headland_edge.slots import slots_locked\n"
        "with slots_locked(Home(Path(sys.argv[1]))): print('held', flush=True); time.sleep(600)\n"
    )
    home = Home(tmp_path)
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        got: list[float] = []

        def take() -> None:
            with slots_locked(home):
                got.append(time.monotonic())

        taker = threading.Thread(target=take)
        taker.start()
        taker.join(0.3)
        assert got == []
        clear_leftovers(home.slots)
        assert (home.slots / ".lock").exists()
        child.kill()
        taker.join(30)
    assert len(got) == 1


def refuse_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a read-only or full disk does to every write; root ignores file modes, so they can't be used here."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("headland_edge.slots.write_bytes", full)


def test_where_nothing_can_be_written_a_trial_does_not_start_and_the_release_before_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = with_release(tmp_path, 1)
    slots.begin_trial(slots.install(*bundle(2)))
    refuse_writes(monkeypatch)
    for _ in range(5):
        booted = Slots(tmp_path).boot()
        assert booted is not None
        assert booted.counter == 1
        assert "takes no write" in booted.events[0]


def test_where_nothing_can_be_written_a_confirmed_release_runs_and_an_install_fails_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_release(tmp_path, 1)
    refuse_writes(monkeypatch)
    assert running(tmp_path) == 1
    with pytest.raises(OSError, match="No space"):
        Slots(tmp_path).install(*bundle(2))
    assert running(tmp_path) == 1


class AnyOrder(RuleBasedStateMachine):
    """Installs, starts, confirmations, rollbacks and damage in any order: a whole release always runs."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.root = Path(tempfile.mkdtemp())
        self.counter, self.floor = 1, 0
        with_release(self.root, 1)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    @rule()
    def restart(self) -> None:
        assert running(self.root) is not None

    @rule()
    def update(self) -> None:
        slots = Slots(self.root)
        slots.boot()
        if slots.on_trial:
            return
        self.counter += 1
        slots.begin_trial(slots.install(*bundle(self.counter)))

    @rule(what=st.sampled_from([Slots.confirm, lambda slots: slots.roll_back("asked")]))
    def conclude(self, what: Callable[[Slots], object]) -> None:
        slots = Slots(self.root)
        slots.boot()
        what(slots)
        assert not slots.on_trial

    @rule(counter=st.integers(0, 5))
    def raise_floor(self, counter: int) -> None:
        Slots(self.root).raise_floor(counter)
        self.floor = max(self.floor, counter)

    @precondition(lambda self: Slots(self.root).on_trial is False)
    @rule(at=st.integers(0, 10_000), bit=st.integers(0, 7), which=st.integers(0, 1))
    def damage_the_state(self, at: int, bit: int, which: int) -> None:
        file = self.root / ("state.json", "state.backup.json")[which]
        if not file.exists():
            return
        data = bytearray(file.read_bytes())
        data[at % len(data)] ^= 1 << bit
        file.write_bytes(data)
        assert running(self.root) is not None
        Slots(self.root).raise_floor(self.floor)

    @invariant()
    def a_whole_release_is_there(self) -> None:
        if hasattr(self, "root"):
            assert Slots(self.root).running() is not None or running(self.root) is not None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
