from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from headland_edge.accept import Accepted, Device, NotAccepted, accept
from headland_edge.assignment import Assignments, encode
from headland_edge.durable import sealed
from headland_edge.home import SettingsError, to_toml
from headland_edge.slots import Slots, slots_locked
from headland_edge.trust import ASSIGNMENTS, FAMILY, Floors, bundle_name, patch_name
from headland_edge.update import Outcome, last_outcome, update

from tasks.fleet.assign import set_assignments
from tasks.fleet.keys import RELEASES, revoke, rotate
from tasks.fleet.repository import File, Repository, target_of
from tests.fleet.made import DAY, NOW, Forged, Gadget, assign, gadget, issue, put, release, ring, sha, untried
from tests.fleet.server import Server, serving

pytestmark = pytest.mark.usefixtures("quick_disk")
ONE, TWO = sha(release(1)), sha(release(2))
NOISE = 400_000


@pytest.fixture
def fleet(signed_fleet: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed_fleet, tmp_path / "fleet")


@pytest.fixture
def server(fleet: Path) -> Iterator[Server]:
    with serving(fleet / "repository") as running:
        yield running


@pytest.fixture
def device(fleet: Path, tmp_path: Path) -> Gadget:
    """Runs release 1, confirmed; reads the repository's folder."""
    made = gadget(tmp_path / "device", fleet)
    assert made.look_and_confirm().state == "installed"
    return made


def to(device: Gadget, url: str, **updates: Any) -> Gadget:
    """The same device, now asking a server."""
    text = device.home.settings_file.read_text()
    settings = device.home.settings()
    changed = replace(settings, updates=replace(settings.updates, url=url, folder="", **updates))
    device.home.settings_file.write_text(to_toml(changed))
    assert device.home.settings_file.read_text() != text
    return device


def brief(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.state, outcome.code, outcome.method


def targets_asked(server: Server) -> list[str]:
    return [path.split(".")[-1] for path, _ in server.asked if "/targets/" in path and "assignments" not in path]


# --- what it should do ---------------------------------------------------------------------------------------------


def test_the_whole_way_with_a_real_trial_first_whole_then_by_patch_then_from_the_slot(
    fleet: Path, server: Server, tmp_path: Path
) -> None:
    device = gadget(tmp_path / "device", fleet, server.url)
    first = device.look_and_confirm(accepting=accept)
    assert (brief(first), first.desired, first.counter) == (("installed", "", "whole"), ONE, 1)
    assert first.bytes_read > len(release(1))
    assign(fleet, release(2))
    second = device.look(accepting=accept)
    assert (brief(second), second.desired, second.counter) == (("installed", "", "patch"), TWO, 2)
    assert second.bytes_read < 0.5 * len(release(2))
    assert (device.runs, device.on_trial) == (2, True)
    assert brief(device.look()) == ("up-to-date", "", "")
    Slots(device.home.slots).confirm()
    assign(fleet, release(1))
    third = device.look_and_confirm()
    assert (brief(third), device.runs) == (("installed", "", "slot"), 1)
    assert third.bytes_read < 6000
    told = last_outcome(device.home)
    assert told == {
        "state": "installed", "sha256": ONE, "counter": 1, "code": "", "text": third.text, "time_s": NOW,
        "bytes_read": third.bytes_read, "method": "slot",
    }  # fmt: skip
    assert not (device.home.updates / "downloads").exists()


def test_an_unchanged_wish_costs_few_bytes_and_changes_nothing(device: Gadget, server: Server) -> None:
    to(device, server.url)
    outcome = device.look()
    assert (brief(outcome), outcome.desired, outcome.counter) == (("up-to-date", "", ""), ONE, 1)
    assert 0 < outcome.bytes_read < 4000
    assert targets_asked(server) == []


def test_no_wish_and_no_place_to_look(fleet: Path, device: Gadget, tmp_path: Path) -> None:
    assign(fleet, None)
    assert brief(device.look()) == ("no-wish", "", "")
    assert device.runs == 1
    nowhere = to(device, "")
    outcome = nowhere.look()
    assert outcome.state == "no-wish"
    assert "updates.url" in outcome.text
    (device.home.settings_file).write_text("crop = 1")
    with pytest.raises(SettingsError, match="device_id"):
        device.look()


def test_a_patch_of_no_use_falls_back_to_the_whole_file(fleet: Path, device: Gadget, server: Server) -> None:
    to(device, server.url)
    patch = Repository(fleet, "releases").targets()[patch_name(ONE, TWO)]
    name = f"{patch.hashes['sha256']}.{patch_name(ONE, TWO).split('/')[1]}"
    assign(fleet, release(2))
    server.replaced[name] = b"x" * patch.length
    assert brief(device.look()) == ("installed", "", "whole")
    assert device.runs == 2


def test_a_signed_patch_that_gives_another_bundle_is_not_believed(fleet: Path, device: Gadget) -> None:
    """Signed by both release keys, and still only the result's hash counts."""
    repository = Repository(fleet, "releases")
    bad = repository.add_files({patch_name(ONE, TWO): File(b"HPATCH1\n" + bytes(50), {"from": ONE, "to": TWO})})
    repository.commit({**repository.targets(), **bad}, ring(fleet).signers(RELEASES), NOW)
    assign(fleet, release(2))
    assert brief(device.look()) == ("installed", "", "whole")


def test_a_download_resumes_after_cuts_and_costs_each_byte_once(fleet: Path, device: Gadget, server: Server) -> None:
    big = release(3, noise_bytes=NOISE)
    issue(fleet, big)
    to(device, server.url)
    server.cut_after = 300_000
    looks = 0
    while device.look().state == "offline":
        looks += 1
        assert device.runs == 1
        assert looks < 10
    assert (looks, device.runs) == (len(big) // 300_000, 3)
    assert server.sent < len(big) + 12_000


def test_what_came_of_the_whole_file_is_not_thrown_away_for_a_patch(
    fleet: Path, device: Gadget, server: Server
) -> None:
    to(device, server.url)
    assign(fleet, release(2))
    part = device.home.updates / "downloads" / f"{TWO}.tar.part"
    part.parent.mkdir()
    part.write_bytes(release(2)[:-100])
    assert brief(device.look()) == ("installed", "", "whole")
    assert f"bytes={len(release(2)) - 100}-" in [asked for _, asked in server.asked]


def test_the_days_bytes_are_honoured_and_the_download_goes_on_the_next_day(
    fleet: Path, device: Gadget, server: Server
) -> None:
    big = release(3, noise_bytes=NOISE)
    issue(fleet, big)
    to(device, server.url, daily_bytes=150_000)
    for day in range(len(big) // 150_000 + 2):
        device.now_s = NOW + day * DAY
        server.sent = 0
        outcome = device.look()
        assert outcome.bytes_read <= 150_000
        if outcome.state == "installed":
            break
        assert brief(outcome)[:2] == ("waiting", "budget")
        assert outcome.exit_code == 1
        assert device.look().bytes_read == 0
        assert device.runs == 1
    assert device.runs == 3
    assert day > 1


def test_the_clock_at_1970_spends_the_bytes_of_a_day_once_too(fleet: Path, device: Gadget, server: Server) -> None:
    issue(fleet, release(3, noise_bytes=NOISE))
    to(device, server.url, daily_bytes=100_000)
    came = 0
    for device.now_s in (0.0, 2 * DAY, 400 * DAY):
        came += device.look().bytes_read
    assert came <= 100_000


def test_leftovers_of_other_downloads_are_cleared(fleet: Path, device: Gadget, server: Server) -> None:
    to(device, server.url)
    issue(fleet, release(3, noise_bytes=NOISE))
    server.cut_after = 1000
    assert device.look().state == "offline"
    downloads = device.home.updates / "downloads"
    assert [path.name for path in downloads.iterdir()] == [f"{sha(release(3, noise_bytes=NOISE))}.tar.part"]
    (device.home.updates / "releases" / "metadata" / "tmpabc").write_bytes(b"of tuf, killed")
    issue(fleet, release(4, noise_bytes=NOISE))
    assert device.look().state == "offline"
    assert [path.name for path in downloads.iterdir()] == [f"{sha(release(4, noise_bytes=NOISE))}.tar.part"]
    assert not (device.home.updates / "releases" / "metadata" / "tmpabc").exists()


# --- trials --------------------------------------------------------------------------------------------------------


def test_a_stuck_trial_does_not_block_the_next_release(fleet: Path, device: Gadget) -> None:
    assign(fleet, release(2))
    device.look()
    Slots(device.home.slots).boot()
    issue(fleet, release(3))
    assert brief(device.look()) == ("installed", "", "patch")
    assert (device.runs, device.on_trial) == (3, True)
    slots = Slots(device.home.slots)
    assert TWO not in slots.bad
    back = slots.roll_back("failed")
    assert back is not None
    assert back.counter == 1


def test_a_halted_rollout_returns_from_the_trial_at_once(fleet: Path, device: Gadget, server: Server) -> None:
    assign(fleet, release(2))
    device.look()
    Slots(device.home.slots).boot()
    assign(fleet, release(1))
    to(device, server.url)
    outcome = device.look()
    assert (brief(outcome), outcome.counter) == (("returned", "", "slot"), 1)
    assert targets_asked(server) == []
    assert (device.runs, device.on_trial) == (1, False)
    assign(fleet, release(2))
    assert brief(device.look()) == ("installed", "", "slot"), "it was not held against the release"


def test_a_trial_of_the_first_release_gives_way_as_well(fleet: Path, tmp_path: Path) -> None:
    device = gadget(tmp_path / "device", fleet)
    device.look()
    Slots(device.home.slots).boot()
    assign(fleet, release(2))
    assert brief(device.look())[:2] == ("installed", "")
    assert device.runs == 2


def test_a_trial_stays_while_the_next_release_cannot_be_had(fleet: Path, device: Gadget) -> None:
    assign(fleet, release(2))
    device.look()
    sign_wish(fleet, "a" * 64)
    assert brief(device.look()) == ("refused", "not-released", "")
    assert (device.runs, device.on_trial) == (2, True)


def test_a_release_that_failed_here_is_not_fetched_again(fleet: Path, device: Gadget, server: Server) -> None:
    to(device, server.url)
    assign(fleet, release(2))
    device.look()
    Slots(device.home.slots).roll_back("advice was wrong")
    server.asked.clear()
    outcome = device.look()
    assert brief(outcome) == ("refused", "bad", "")
    assert outcome.exit_code == 7
    assert (targets_asked(server), device.runs) == ([], 1)
    issue(fleet, release(3))
    assert device.look().state == "installed"


@pytest.mark.parametrize(
    "change",
    [
        {"hardware": {"min_ram_mb": 256, "arch": ["aarch64" if os.uname().machine == "x86_64" else "x86_64"]}},
        {"hardware": {"min_ram_mb": 4096 * 1024, "arch": ["x86_64", "aarch64"]}},
    ],
    ids=["machine", "memory"],
)
def test_a_release_for_other_hardware_is_refused_once_and_remembered(
    fleet: Path, device: Gadget, server: Server, change: dict[str, Any]
) -> None:
    issue(fleet, other_hardware(change))
    to(device, server.url)
    outcome = device.look()
    assert brief(outcome)[:2] == ("refused", "hardware")
    server.asked.clear()
    again = device.look()
    assert (brief(again)[:2], again.text) == (("refused", "hardware"), outcome.text)
    assert (targets_asked(server), device.runs) == ([], 1)


def other_hardware(change: dict[str, Any]) -> bytes:
    from headland_edge.bundle import encode_bundle

    from tests.edge.small_bundle import parts

    manifest, members = parts(counter=7)
    return encode_bundle({**manifest, **change}, members)


def test_a_release_whose_trial_fails_is_refused_and_one_that_meets_a_full_disk_is_not(
    fleet: Path, device: Gadget
) -> None:
    assign(fleet, release(2))

    def full(data: bytes, sha256: str, here: Device) -> Accepted:
        raise OSError(28, "No space left on device", "bundle.tar")

    outcome = device.look(accepting=full)
    assert brief(outcome)[:2] == ("waiting", "disk")
    assert "is full" in outcome.text

    def slow(data: bytes, sha256: str, here: Device) -> Accepted:
        raise NotAccepted("slow", "advice takes 9 ms")

    assert brief(device.look(accepting=slow))[:2] == ("refused", "slow")
    assert brief(device.look())[:2] == ("refused", "slow")
    Slots(device.home.slots).forgive()
    assert device.look().state == "installed"


# --- attacks -------------------------------------------------------------------------------------------------------


def sign_wish(fleet: Path, sha256: str, *, serial: int | None = None, signer: str = "assignments") -> None:
    """Whatever the cloud itself would refuse to assign, signed with the online key."""
    for name in ("assignments", "media-assignments"):
        repository = Repository(fleet, name)
        now = serial or json.loads(repository.content(ASSIGNMENTS))["serial"] + 1
        file = {ASSIGNMENTS: File(encode(Assignments(now, sha256)), {})}
        repository.commit(repository.add_files(file), [ring(fleet).signer(signer)], NOW)


def test_the_online_key_alone_makes_no_device_run_what_was_not_released(fleet: Path, device: Gadget) -> None:
    evil = release(9, "evil")
    sign_wish(fleet, sha(evil))
    assert brief(device.look()) == ("refused", "not-released", "")
    stolen = [ring(fleet).signer("assignments")]
    forged = Forged(fleet, "releases", stolen)
    real = forged.targets()
    wanted = {**real, **forged.add_files({bundle_name(sha(evil)): File(evil, {"counter": 9, "floor": 0})})}
    forged.commit(wanted, stolen, NOW)
    assert brief(device.look())[:2] == ("signature", "signature")
    assert device.runs == 1


@pytest.mark.parametrize("names", [["releases-1"], ["releases-2"], ["recovery"], ["releases-1", "recovery"]])
def test_no_other_key_alone_does_either(fleet: Path, device: Gadget, names: list[str]) -> None:
    evil = release(9, "evil")
    stolen = ring(fleet).signers(names)
    forged = Forged(fleet, "releases", stolen)
    wanted = {**forged.targets(), **forged.add_files({bundle_name(sha(evil)): File(evil, {"counter": 9, "floor": 0})})}
    forged.commit(wanted, stolen, NOW)
    sign_wish(fleet, sha(evil))
    outcome = device.look()
    assert brief(outcome)[:2] == ("signature", "signature")
    assert outcome.exit_code == 7
    assert device.runs == 1


def test_release_keys_assign_nothing(fleet: Path, device: Gadget) -> None:
    stolen = ring(fleet).signers(RELEASES)
    forged = Forged(fleet, "assignments", stolen)
    file = {ASSIGNMENTS: File(encode(Assignments(9, TWO)), {})}
    forged.commit(forged.add_files(file), stolen, NOW)
    assert brief(device.look())[:2] == ("signature", "signature")
    assert device.runs == 1


def test_a_downgrade_signed_anew_stops_at_the_signed_floor(fleet: Path, device: Gadget) -> None:
    issue(fleet, release(3), floor=2)
    assert device.look_and_confirm().state == "installed"
    sign_wish(fleet, ONE)
    outcome = device.look()
    assert (brief(outcome), outcome.counter) == (("refused", "downgrade", ""), 1)
    # Both release keys sign it anew without a floor: what was seen once still holds.
    repository = Repository(fleet, "releases")
    targets = {bundle_name(ONE): target_of(bundle_name(ONE), File(release(1), {"counter": 1, "floor": 0}))}
    repository.commit(targets, ring(fleet).signers(RELEASES), NOW)
    assert brief(device.look()) == ("refused", "downgrade", "")
    assert (device.runs, Slots(device.home.slots).floor) == (3, 2)


def test_a_counter_signed_other_than_the_bundles_own_is_refused(fleet: Path, device: Gadget) -> None:
    """A floor cannot be passed by signing an old bundle under a new counter."""
    old = release(0, "old")
    repository = Repository(fleet, "releases")
    added = repository.add_files({bundle_name(sha(old)): File(old, {"counter": 9, "floor": 0})})
    repository.commit({**repository.targets(), **added}, ring(fleet).signers(RELEASES), NOW)
    sign_wish(fleet, sha(old))
    outcome = device.look()
    assert brief(outcome)[:2] == ("refused", "format")
    assert "release 0" in outcome.text
    assert device.runs == 1


@pytest.mark.parametrize("custom", [{}, {"counter": "2"}, {"counter": True}, {"counter": -1}])
def test_a_release_signed_without_its_counter_is_refused(fleet: Path, device: Gadget, custom: dict[str, Any]) -> None:
    repository = Repository(fleet, "releases")
    name = bundle_name(TWO)
    targets = {**repository.targets(), name: target_of(name, File(release(2), custom))}
    repository.commit(targets, ring(fleet).signers(RELEASES), NOW)
    sign_wish(fleet, TWO)
    assert brief(device.look())[:2] == ("signature", "signature")
    assert device.runs == 1


def test_local_rollback_does_not_trip_the_floor(fleet: Path, device: Gadget) -> None:
    issue(fleet, release(3), floor=3)
    device.look()
    Slots(device.home.slots).roll_back("failed")
    assert (device.runs, Slots(device.home.slots).floor) == (1, 3)
    assert brief(device.look())[:2] == ("refused", "bad")
    assert device.runs == 1


def test_another_devices_wish_is_not_this_ones(fleet: Path, device: Gadget) -> None:
    set_assignments(fleet, ring(fleet), base=ONE, pins={"field-2": TWO}, now_s=NOW)
    assert device.look().state == "up-to-date"
    set_assignments(fleet, ring(fleet), base=ONE, pins={"field-1": TWO}, now_s=NOW)
    assert device.look().state == "installed"


@pytest.mark.parametrize(
    "data", [b"{}", b"[", encode(Assignments(5)).replace(b'"schema_version": 1', b'"schema_version": 2')]
)
def test_assignments_that_are_none_are_told_and_change_nothing(fleet: Path, device: Gadget, data: bytes) -> None:
    repository = Repository(fleet, "assignments")
    repository.commit(repository.add_files({ASSIGNMENTS: File(data, {})}), [ring(fleet).signer("assignments")], NOW)
    assert brief(device.look())[:2] == ("signature", "assignments")
    assert device.runs == 1


@pytest.mark.parametrize(
    ("endless", "expected"),
    [(".hpatch", ("installed", "", "whole")), (".tar", ("signature", "damaged", "whole"))],
)
def test_endless_data_in_place_of_a_release_ends(
    fleet: Path, device: Gadget, server: Server, endless: str, expected: tuple[str, str, str]
) -> None:
    to(device, server.url)
    issue(fleet, release(3, noise_bytes=NOISE if endless == ".tar" else 0))
    server.endless = endless
    outcome = device.look()
    assert brief(outcome) == expected
    assert outcome.bytes_read < 2 * NOISE


def test_endless_assignments_end(fleet: Path, device: Gadget, server: Server) -> None:
    to(device, server.url)
    assign(fleet, release(2))
    server.endless = "assignments.json"
    outcome = device.look()
    assert brief(outcome)[:2] == ("signature", "damaged")
    assert outcome.bytes_read < 100_000


def test_a_flipped_byte_in_each_file_is_noticed_and_the_whole_file_heals(
    fleet: Path, tmp_path: Path, device: Gadget, server: Server
) -> None:
    assign(fleet, release(2))
    for path in device.home.updates.glob("*/metadata"):
        shutil.rmtree(path)
    (device.home.updates / ASSIGNMENTS).unlink()
    fresh = device.home.root.rename(tmp_path / "fresh")
    shutil.copytree(fresh, device.home.root)
    assert brief(to(device, server.url).look()) == ("installed", "", "patch")
    asked = [server.folder / path.lstrip("/") for path, _ in server.asked]
    files = [path for path in asked if path.is_file()]
    assert len(files) == 3 + 3 + 2, "metadata of both, assignments, patch"
    for path in files:
        shutil.rmtree(device.home.root)
        shutil.copytree(fresh, device.home.root)
        whole = path.read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 0x04
        path.write_bytes(data)
        outcome = device.look()
        by_patch = path.suffix == ".hpatch"
        assert (outcome.state, device.runs) == (("installed", 2) if by_patch else ("signature", 1)), path
        path.write_bytes(whole)
        assert device.look().state == ("up-to-date" if by_patch else "installed")
        assert device.runs == 2


def test_a_flipped_byte_in_the_only_file_of_a_release_is_refused_and_fetched_again(
    fleet: Path, device: Gadget, server: Server
) -> None:
    big = release(3, noise_bytes=NOISE)
    issue(fleet, big)
    to(device, server.url)
    server.replaced[f"{sha(big)}.tar"] = big[:1000] + bytes([big[1000] ^ 1]) + big[1001:]
    assert brief(device.look())[:2] == ("signature", "damaged")
    assert device.runs == 1
    server.replaced.clear()
    assert device.look().state == "installed"


def test_expired_metadata_stops_updates_and_nothing_else(fleet: Path, device: Gadget) -> None:
    assign(fleet, release(2))
    for device.now_s in (NOW + 31 * DAY, 4_102_444_800.0):
        outcome = device.look()
        assert brief(outcome)[:2] == ("signature", "expired")
        assert device.runs == 1
    device.now_s = 0.0
    assert device.look().state == "installed"


# --- sticks --------------------------------------------------------------------------------------------------------


def stick_of(fleet: Path, to: Path) -> Path:
    for name in ("media", "media-assignments"):
        shutil.copytree(fleet / "repository" / name, to / "headland" / name, dirs_exist_ok=True)
    return to


def test_a_stick_does_what_the_network_does_also_when_that_has_expired(
    fleet: Path, device: Gadget, tmp_path: Path
) -> None:
    assign(fleet, release(2))
    stick = stick_of(fleet, tmp_path / "stick")
    device.now_s = NOW + 700 * DAY
    assert brief(device.look())[:2] == ("signature", "expired")
    assert brief(device.look(stick=stick)) == ("installed", "", "patch")
    assert device.runs == 2
    assert brief(device.look(stick=tmp_path / "none"))[:2] == ("offline", "offline")


def test_a_stick_older_than_the_network_changes_nothing(fleet: Path, device: Gadget, tmp_path: Path) -> None:
    stick = stick_of(fleet, tmp_path / "stick")
    assign(fleet, release(2))
    assert device.look_and_confirm().state == "installed"
    outcome = device.look(stick=stick)
    assert brief(outcome) == ("refused", "older", "")
    assert "make it again" in outcome.text
    assert device.runs == 2
    assert device.look(stick=stick_of(fleet, tmp_path / "new")).state == "up-to-date"


def test_a_folder_of_a_stick_in_the_settings_is_read_as_a_stick(fleet: Path, tmp_path: Path) -> None:
    stick = stick_of(fleet, tmp_path / "stick")
    device = gadget(tmp_path / "device", fleet, folder=str(stick))
    assert device.look().state == "installed"


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_device_that_slept_through_rotations_and_a_revocation_updates_in_one_look(
    fleet: Path, device: Gadget
) -> None:
    now_s = NOW
    for act, name in ((rotate, "releases-1"), (rotate, "releases-2"), (revoke, "assignments"), (rotate, "recovery")):
        now_s += 20 * DAY
        act(fleet, ring(fleet), name, now_s)
    issue(fleet, release(3), now_s=now_s)
    device.now_s = now_s
    assert device.look().state == "installed"
    assert device.runs == 3


def test_a_thief_of_the_online_key_loses_the_fleet_with_its_revocation(
    fleet: Path, device: Gadget, tmp_path: Path
) -> None:
    """He may move devices among releases and push serials up, but not past the owner's next root."""
    thief = shutil.copytree(fleet, tmp_path / "thief")
    sign_wish(thief, TWO, serial=2**53 - 1)
    served = fleet / "repository"
    for name in ("assignments", "media-assignments"):
        shutil.copytree(served / name, tmp_path / "owner" / name)
        shutil.rmtree(served / name)
        shutil.copytree(thief / "repository" / name, served / name)
    assert device.look_and_confirm().state == "installed"
    assert Floors(device.home.updates / "floors.json").serial("assignments") == 2**53 - 1
    for name in ("assignments", "media-assignments"):
        shutil.rmtree(served / name)
        shutil.copytree(tmp_path / "owner" / name, served / name)
    revoke(fleet, ring(fleet), "assignments", NOW + DAY)
    device.now_s = NOW + DAY
    outcome = device.look()
    assert (brief(outcome), outcome.counter) == (("installed", "", "slot"), 1)


# --- trouble -------------------------------------------------------------------------------------------------------


def test_offline_is_told_as_offline(fleet: Path, device: Gadget, server: Server) -> None:
    to(device, server.url)
    server.status = 503
    outcome = device.look()
    assert (brief(outcome)[:2], outcome.exit_code) == (("offline", "offline"), 1)
    server.status = 0
    shutil.rmtree(fleet / "repository" / "releases")
    assert brief(device.look())[:2] == ("waiting", "missing")
    assert brief(to(device, "http://example.org/").look())[:2] == ("offline", "url")
    assert device.runs == 1


def test_before_the_pins_a_device_says_so(fleet: Path, device: Gadget) -> None:
    for family in FAMILY.values():
        shutil.rmtree(device.home.updates / family, ignore_errors=True)
    outcome = device.look()
    assert brief(outcome)[:2] == ("signature", "not-pinned")
    assert "headland-edge init" in outcome.text


@pytest.mark.parametrize("left", [0, 1_000, 20_000])
def test_a_disk_that_fills_up_leaves_what_runs_and_the_next_look_goes_on(
    fleet: Path, device: Gadget, left: int
) -> None:
    """The real limit of a file's size stands in for a full disk: every write past it fails with an error."""
    assign(fleet, release(2))
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from headland_edge.home import Home; from headland_edge.update import update\n"
        "from tests.fleet.made import untried\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))\n"
        "outcome = update(Home(Path(sys.argv[1])), now_s=lambda: float(sys.argv[3]), accepting=untried)\n"
        "assert outcome.state == 'waiting' and outcome.code == 'disk', outcome\n"
    )
    words = [sys.executable, "-c", program, str(device.home.root), str(left), str(NOW)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert device.runs == 1
    assert device.look().state == "installed"
    assert device.runs == 2


def test_a_disk_that_takes_no_write_is_told_and_what_runs_stays(
    fleet: Path, device: Gadget, monkeypatch: pytest.MonkeyPatch
) -> None:
    assign(fleet, release(2))

    def refuse(*given: Any, **named: Any) -> Any:
        raise OSError(30, "Read-only file system", str(named.get("dir")))

    with monkeypatch.context() as patched:
        for name in ("tempfile.mkstemp", "tempfile.NamedTemporaryFile"):
            patched.setattr(name, refuse)
        outcome = device.look()
    assert brief(outcome)[:2] == ("waiting", "disk")
    assert "takes no write" in outcome.text
    assert device.runs == 1
    assert device.look().state == "installed"


def test_two_looks_at_once_do_not_meet(fleet: Path, device: Gadget) -> None:
    assign(fleet, release(2))
    inside, go_on = threading.Event(), threading.Event()

    def waits(data: bytes, sha256: str, here: Device) -> Accepted:
        inside.set()
        assert go_on.wait(60)
        return untried(data, sha256, here)

    got: list[Outcome] = []
    first = threading.Thread(target=lambda: got.append(device.look(accepting=waits)))
    first.start()
    assert inside.wait(60)
    assert brief(device.look())[:2] == ("waiting", "busy")
    with slots_locked(device.home):
        assert Slots(device.home.slots).running() is not None
    go_on.set()
    first.join(60)
    assert [outcome.state for outcome in got] == ["installed"]


def test_the_service_may_confirm_and_roll_back_while_a_release_is_fetched(fleet: Path, device: Gadget) -> None:
    assign(fleet, release(2))
    device.look()
    issue(fleet, release(3))

    def meanwhile(data: bytes, sha256: str, here: Device) -> Accepted:
        with slots_locked(device.home):
            Slots(device.home.slots).roll_back("late")
        return untried(data, sha256, here)

    assert device.look(accepting=meanwhile).state == "installed"
    assert device.runs == 3


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")


def killed_before(device: Gadget, change: int) -> bool:
    """Look in a process of its own that is killed before its so-manieth change of a file; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = change

        def hook(event: str, given: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            device.look()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.parametrize("installed", [0, 1], ids=["first install", "update"])
def test_killed_before_any_change_of_a_file_the_next_look_completes_it(
    fleet: Path, tmp_path: Path, installed: int
) -> None:
    first = gadget(tmp_path / "first", fleet)
    wanted = 1
    if installed:
        first.look_and_confirm()
        wanted = 2
        assign(fleet, release(2))
    later = shutil.copytree(fleet, tmp_path / "later")
    assign(later, release(3 - wanted))
    change = 0
    while True:
        device = Gadget(replace(first.home, root=shutil.copytree(first.home.root, tmp_path / f"device{change}")))
        was_killed = killed_before(device, change)
        assert device.runs in (installed or None, wanted), change
        assert device.look_and_confirm().state in ("installed", "up-to-date"), change
        assert device.runs == wanted
        settings = device.home.settings()
        to_later = replace(settings, updates=replace(settings.updates, folder=str(later / "repository")))
        device.home.settings_file.write_text(to_toml(to_later))
        assert device.look().state == "installed"
        assert device.runs == 3 - wanted
        if not was_killed:
            break
        change += 1
    assert change > 40


def test_what_is_remembered_of_the_last_look_is_whole_or_nothing(device: Gadget) -> None:
    device.look()
    file = device.home.updates / "last.json"
    data = bytearray(file.read_bytes())
    assert data == sealed(last_outcome(device.home) or {})
    data[10] ^= 1
    file.write_bytes(data)
    assert last_outcome(device.home) is None
    assert device.look().state == "up-to-date"
    assert update(device.home, now_s=lambda: NOW, accepting=untried).state == "up-to-date"
    assert put(device.home.root, b"x").exists()
