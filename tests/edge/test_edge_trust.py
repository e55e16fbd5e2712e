from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from headland_edge.budget import Budget
from headland_edge.fetch import BudgetError, FolderSource, HttpSource, LengthError, MissingError, OfflineError
from headland_edge.trust import ASSIGNMENTS, FAMILY, Floors, Trust, TrustError, bundle_name, pin
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # it has one

from tasks.fleet.keys import RELEASES, revoke
from tasks.fleet.publish import renew
from tasks.fleet.repository import Repository
from tests.fleet.made import DAY, NOW, Forged, assign, issue, pinned, release, ring, see, sha
from tests.fleet.server import Server, serving

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def fleet(signed_fleet: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed_fleet, tmp_path / "fleet")


@pytest.fixture
def updates(fleet: Path, tmp_path: Path) -> Path:
    return pinned(tmp_path / "updates", fleet)


@pytest.fixture
def server(fleet: Path) -> Iterator[Server]:
    with serving(fleet / "repository") as running:
        yield running


def over_http(updates: Path, server: Server, now_s: float = NOW, daily: int = 10**8) -> Trust:
    budget = Budget(updates / "budget.json", daily, lambda: now_s)
    return Trust(updates, HttpSource(server.url, budget, timeout_s=5), now_s)


def metadata(fleet: Path, repository: str) -> Path:
    return fleet / "repository" / repository / "metadata"


def test_an_unchanged_repository_costs_two_small_requests(updates: Path, server: Server) -> None:
    assert over_http(updates, server).refresh("releases").target(bundle_name(sha(release(2)))) is not None
    server.asked.clear()
    server.sent = 0
    assert over_http(updates, server).refresh("releases").floor() == 0
    asked = {path.rpartition("/")[2] for path, _ in server.asked}
    assert asked == {"2.root.json", "timestamp.json"}
    assert server.sent < 2000


def test_what_was_believed_is_on_the_disk(updates: Path, fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    Trust(updates, FolderSource(fleet / "repository"), NOW).refresh("releases")
    kept = [path for path in (updates / "releases" / "metadata").rglob("*") if path.is_file()]
    assert {path.name for path in kept} >= {"root.json", "timestamp.json", "snapshot.json", "targets.json"}
    assert {path.stat().st_ino for path in kept} <= flushed
    assert (updates / "releases" / "metadata").stat().st_ino in flushed


def test_without_a_pin_nothing_is_believed(fleet: Path, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="headland-edge init --root-releases") as caught:
        see(tmp_path / "fresh", fleet, "releases")
    assert caught.value.code == "not-pinned"


@pytest.mark.parametrize("damage", ["other family", "no root", "unsigned", "garbage", "empty"])
def test_only_a_root_of_its_family_signed_by_itself_is_pinned(fleet: Path, tmp_path: Path, damage: str) -> None:
    root = (metadata(fleet, "assignments") / "1.root.json").read_bytes()
    plain = json.loads(root)
    if damage == "unsigned":
        plain["signatures"] = plain["signatures"][:1]
    given_data = {
        "other family": (metadata(fleet, "releases") / "1.root.json").read_bytes(),
        "no root": (metadata(fleet, "assignments") / "timestamp.json").read_bytes(),
        "unsigned": json.dumps(plain).encode(),
        "garbage": b"[" * 100_000,
        "empty": b"",
    }[damage]
    with pytest.raises(TrustError, match="not a root of assignments"):
        pin(tmp_path / "fresh", "assignments", given_data)
    assert not list(tmp_path.glob("fresh/**/*.json"))


def test_older_metadata_is_refused_however_well_signed(fleet: Path, updates: Path, tmp_path: Path) -> None:
    old = shutil.copytree(fleet, tmp_path / "old")
    issue(fleet, release(3))
    for repository in ("releases", "assignments"):
        see(updates, fleet, repository)
        with pytest.raises(TrustError, match="version") as caught:
            see(updates, old, repository)
        assert caught.value.code == "signature"
        see(updates, fleet, repository)


def test_a_frozen_repository_expires_and_the_text_tells_the_clock(fleet: Path, updates: Path) -> None:
    see(updates, fleet, "assignments", NOW + 29 * DAY)
    with pytest.raises(TrustError, match="clock says 2026-10-2") as caught:
        see(updates, fleet, "assignments", NOW + 31 * DAY)
    assert caught.value.code == "expired"
    renew(fleet, ring(fleet), names=("assignments",), now_s=NOW + 31 * DAY)
    see(updates, fleet, "assignments", NOW + 31 * DAY)


def test_a_clock_at_1970_does_not_make_old_metadata_fresh(fleet: Path, updates: Path, tmp_path: Path) -> None:
    old = shutil.copytree(fleet, tmp_path / "old")
    renew(fleet, ring(fleet), names=("assignments",), now_s=NOW + 40 * DAY)
    see(updates, fleet, "assignments", 0.0)
    shutil.rmtree(updates / "assignments" / "metadata")  # what tuf itself remembers is lost as well
    with pytest.raises(TrustError) as caught:
        see(updates, old, "assignments", 0.0)
    assert caught.value.code == "expired"
    see(updates, fleet, "assignments", 0.0)


@pytest.mark.parametrize("now_s", [4_102_444_800.0, 1e300, float("inf")])
def test_a_clock_at_2100_stops_updates_and_leaves_nothing_behind(fleet: Path, updates: Path, now_s: float) -> None:
    see(updates, fleet, "assignments")
    with pytest.raises(TrustError, match="set the clock") as caught:
        see(updates, fleet, "assignments", now_s)
    assert caught.value.code == "expired"
    see(updates, fleet, "assignments")


@pytest.mark.parametrize("now_s", [0.0, -1e9, float("nan")])
def test_a_clock_before_all_times_does_not_stop_updates(fleet: Path, updates: Path, now_s: float) -> None:
    assert see(updates, fleet, "assignments", now_s).issued_s == NOW


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
def test_parts_of_two_states_do_not_mix(fleet: Path, updates: Path, tmp_path: Path, part: str) -> None:
    old = shutil.copytree(fleet, tmp_path / "old")
    see(updates, old, "releases")
    issue(fleet, release(3))
    here, there = metadata(fleet, "releases"), metadata(old, "releases")

    def latest(folder: Path) -> Path:
        return max(folder.glob(f"*{part}.json"), key=lambda path: int("0" + path.name.split(".")[0].strip("timesap")))

    latest(here).write_bytes(latest(there).read_bytes())
    if part == "timestamp":
        assert see(updates, fleet, "releases").target(bundle_name(sha(release(3)))) is None
        return
    with pytest.raises(TrustError) as caught:
        see(updates, fleet, "releases")
    assert caught.value.code == "signature"


@pytest.mark.parametrize(("asked", "given"), [("releases", "media"), ("media-assignments", "assignments"),
                                              ("assignments", "releases")])  # fmt: skip
def test_one_repository_does_not_pass_for_another(fleet: Path, updates: Path, asked: str, given: str) -> None:
    shutil.rmtree(fleet / "repository" / asked)
    shutil.copytree(fleet / "repository" / given, fleet / "repository" / asked)
    with pytest.raises(TrustError, match=f"belongs to '{given}'"):
        see(updates, fleet, asked)


def test_a_flipped_byte_anywhere_in_signed_metadata_is_refused(fleet: Path, updates: Path, tmp_path: Path) -> None:
    issue(fleet, release(3))
    for name in ("timestamp.json", "4.snapshot.json", "4.targets.json"):
        whole = (metadata(fleet, "releases") / name).read_bytes()
        for at in range(0, len(whole), 41):
            device = shutil.copytree(updates, tmp_path / "device")
            data = bytearray(whole)
            data[at] ^= 0x04
            (metadata(fleet, "releases") / name).write_bytes(data)
            with pytest.raises(TrustError):
                see(device, fleet, "releases")
            (metadata(fleet, "releases") / name).write_bytes(whole)
            assert see(device, fleet, "releases").target(bundle_name(sha(release(3)))) is not None
            shutil.rmtree(device)


@settings(max_examples=60, deadline=None)
@given(which=st.integers(0, 10**6), at=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_flipped_byte_in_what_the_device_keeps_does_not_stop_it(
    signed_fleet: Path, tmp_path_factory: pytest.TempPathFactory, which: int, at: int, bit: int, cut: bool
) -> None:
    """Not in the pin itself, which nothing can replace; there it says so instead of believing anything."""
    updates = pinned(tmp_path_factory.mktemp("updates"), signed_fleet)
    for repository in ("releases", "assignments"):
        see(updates, signed_fleet, repository)
    files = sorted(path for path in updates.rglob("*.json") if not path.is_symlink())
    file = files[which % len(files)]
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1 << bit
    file.write_bytes(data[: at % len(data)] if cut else data)
    for repository in ("releases", "assignments"):
        assert see(updates, signed_fleet, repository).issued_s == NOW


def test_a_damaged_pin_alone_is_told(fleet: Path, updates: Path) -> None:
    (updates / "releases" / "root.json").write_bytes(b"{")
    with pytest.raises(TrustError, match="pin it with"):
        see(updates, fleet, "releases")
    assert see(updates, fleet, "assignments").issued_s == NOW


def test_one_release_key_alone_signs_nothing(fleet: Path, updates: Path) -> None:
    stolen = [ring(fleet).signer("releases-1")]
    Forged(fleet, "releases", stolen).commit({}, stolen, NOW)
    with pytest.raises(TrustError, match="1/2 keys"):
        see(updates, fleet, "releases")


def test_the_online_key_signs_no_release_and_no_root(fleet: Path, updates: Path) -> None:
    stolen = [ring(fleet).signer("assignments")]
    Forged(fleet, "releases", stolen).commit({}, stolen, NOW)
    with pytest.raises(TrustError, match="0/2 keys"):
        see(updates, fleet, "releases")
    repository = Repository(fleet, "assignments")
    root = repository.root()
    root.signed.version = 2
    root.signatures.clear()
    root.sign(stolen[0])
    repository.write_root(root)
    with pytest.raises(TrustError, match="root was signed by 0/2 keys"):
        see(updates, fleet, "assignments")


def test_the_recovery_key_signs_no_release(fleet: Path, updates: Path) -> None:
    stolen = ring(fleet).signers(["recovery", "releases-1"])
    Forged(fleet, "releases", stolen).commit({}, stolen, NOW)
    with pytest.raises(TrustError, match="1/2 keys"):
        see(updates, fleet, "releases")


def test_versions_and_times_pushed_up_with_a_stolen_online_key_end_with_its_revocation(
    fleet: Path, updates: Path, tmp_path: Path
) -> None:
    stolen = ring(fleet).signer("assignments")
    thief = shutil.copytree(fleet, tmp_path / "thief")
    far_s = 200_000_000_000.0
    for _ in range(5):
        Repository(thief, "assignments").commit(Repository(thief, "assignments").targets(), [stolen], far_s)
    signed = see(updates, thief, "assignments")
    assert signed.issued_s == far_s
    Floors(updates / "floors.json").raise_to("assignments", signed.keys, serial=2**53 - 1)
    with pytest.raises(TrustError):
        see(updates, fleet, "assignments")
    revoke(fleet, ring(fleet), "assignments", NOW + DAY)
    signed = see(updates, fleet, "assignments", NOW + DAY)
    assert signed.issued_s == NOW + DAY
    assert Floors(updates / "floors.json").serial("assignments") == 0
    assert see(updates, fleet, "releases").target(bundle_name(sha(release(2)))) is not None


def test_endless_and_too_long_metadata_is_cut_off(server: Server, updates: Path, fleet: Path) -> None:
    server.endless = "timestamp.json"
    with pytest.raises(TrustError, match="longer"):
        over_http(updates, server, daily=10**8).refresh("releases")
    assert Budget(updates / "budget.json", 10**8, lambda: NOW).left > 10**8 - 50_000
    server.endless = ""
    server.replaced["2.root.json"] = b" " * 100_000
    with pytest.raises(TrustError, match="longer"):
        over_http(updates, server).refresh("releases")


@pytest.mark.parametrize("answer", [b"<html>log in to the hotspot</html>", b"", b"null", b"[" * 60_000, b"\xff\xfe"])
def test_a_hotspot_that_answers_for_the_server_changes_nothing(server: Server, updates: Path, answer: bytes) -> None:
    server.replaced["json"] = answer
    with pytest.raises(TrustError, match="no metadata of a headland repository"):
        over_http(updates, server).refresh("releases")
    server.replaced.clear()
    over_http(updates, server).refresh("releases")


def test_offline_and_spent_are_not_mistaken_for_attacks(server: Server, updates: Path) -> None:
    server.status = 500
    with pytest.raises(OfflineError, match="500"):
        over_http(updates, server).refresh("releases")
    server.status = 0
    with pytest.raises(BudgetError):
        over_http(updates, server, daily=700).refresh("releases")
    over_http(updates, server, NOW + DAY).refresh("releases")


def test_a_repository_that_is_not_there_is_missing_and_no_attack(fleet: Path, updates: Path) -> None:
    shutil.rmtree(fleet / "repository" / "releases")
    with pytest.raises(MissingError, match=r"timestamp\.json"):
        see(updates, fleet, "releases")


def test_floors_only_rise_and_belong_to_their_keys(tmp_path: Path) -> None:
    file = tmp_path / "floors.json"
    floors = Floors(file)
    floors.raise_to("assignments", ["k"], issued_s=5.0, serial=3)
    floors.raise_to("assignments", ["k"], issued_s=4.0, serial=2)
    floors.raise_to("releases", ["r"], issued_s=9.0)
    again = Floors(file)
    assert (again.issued_s("assignments"), again.serial("assignments"), again.issued_s("releases")) == (5.0, 3, 9.0)
    again.meet("assignments", ["k"])
    assert again.serial("assignments") == 3
    again.meet("assignments", ["other"])
    assert (Floors(file).serial("assignments"), Floors(file).issued_s("releases")) == (0, 9.0)


@settings(max_examples=100, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(FAMILY)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["releases", "keys", "issued_s", "serial"]), inner, max_size=4), max_leaves=8,
).map(lambda plain: json.dumps(plain).encode())))  # fmt: skip
def test_whatever_stands_in_the_file_of_floors_they_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "floors.json"
    file.write_bytes(data)
    assert Floors(file).issued_s("releases") >= 0
    assert Floors(file).serial("assignments") >= 0


def test_what_was_signed_is_what_is_fetched(fleet: Path, updates: Path, tmp_path: Path) -> None:
    signed = see(updates, fleet, "assignments")
    target = signed.target(ASSIGNMENTS)
    assert target is not None
    source = FolderSource(fleet / "repository")
    source.download(target.path, tmp_path / "got", target.length, target.sha256)
    (fleet / "repository" / target.path).write_bytes(b"x" * target.length)
    with pytest.raises(LengthError):
        source.download(target.path, tmp_path / "got", target.length, target.sha256)


def test_both_release_keys_push_no_floor_of_assignments(fleet: Path, updates: Path) -> None:
    """What each key may do stays its own: releases from the far future leave the assignments as they are."""
    repository = Repository(fleet, "releases")
    repository.commit(repository.targets(), ring(fleet).signers(RELEASES), NOW + 3000 * DAY)
    see(updates, fleet, "releases")
    assign(fleet, release(2))
    assert see(updates, fleet, "assignments").issued_s == NOW
    assert isinstance(ring(fleet).signer("releases-1"), CryptoSigner)
