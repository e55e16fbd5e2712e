from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from headland_edge.trust import FAMILY, TrustError
from tuf.api.metadata import Root, Targets  # type: ignore[attr-defined]  # it has them

from tasks.fleet.assign import set_assignments
from tasks.fleet.keys import (
    ASSIGNMENTS,
    KEY_NAME_FIELD,
    NAMES,
    PASSPHRASE_ENV,
    PASSPHRASE_FILE_ENV,
    RELEASES,
    ROOT,
    Keyring,
    create,
    keyring,
    revoke,
    rotate,
)
from tasks.fleet.publish import bundle_name, publish, renew
from tasks.fleet.repository import FleetError, Repository
from tests.fleet.made import DAY, NOW, Forged, copied_at_every_write, pinned, put, release, ring, see, sha, tree

WRITES = ["tasks.fleet.repository.write_bytes", "tasks.fleet.keys._write_secret"]

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def fleet(signed_fleet: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed_fleet, tmp_path / "fleet")


def key_names(fleet: Path, family: str, role: str) -> list[str]:
    """Names of the keys that count in a role."""
    root = Repository(fleet, family).root().signed
    return sorted(root.keys[each].unrecognized_fields[KEY_NAME_FIELD] for each in root.roles[role].keyids)


def signs(fleet: Path, updates: Path) -> None:
    """Everything can be signed again, and a device of ``updates`` follows."""
    assert set(renew(fleet, ring(fleet), now_s=NOW + 3000 * DAY)) == set(FAMILY)
    for repository in FAMILY:
        see(updates, fleet, repository, NOW + 3000 * DAY)


def works(fleet: Path, updates: Path, now_s: float = NOW) -> None:
    """A release can be published and assigned, and a device of ``updates`` follows."""
    number = max(int(target.custom["counter"]) for target in Repository(fleet, "releases").targets().values()
                 if "counter" in target.custom) + 1  # fmt: skip
    data = release(number)
    publish(fleet, put(fleet / "made", data), ring(fleet), now_s=now_s)
    wish = set_assignments(fleet, ring(fleet), base=sha(data), now_s=now_s)
    assert see(updates, fleet, "releases", now_s).target(bundle_name(sha(data))) is not None
    target = see(updates, fleet, "assignments", now_s).target("assignments.json")
    assert target is not None
    assert target.custom["serial"] == wish.serial
    for name in ("media", "media-assignments"):
        see(updates, fleet, name, now_s)


def test_made_once_and_kept_by_their_owner_only(fleet: Path) -> None:
    before = tree(fleet)
    create(fleet, ring(fleet), NOW + DAY)
    assert tree(fleet) == before
    for name in NAMES:
        path = ring(fleet).file(name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert key_names(fleet, "releases", Root.type) == sorted(ROOT)
    assert key_names(fleet, "releases", Targets.type) == sorted(RELEASES)
    assert key_names(fleet, "assignments", Root.type) == sorted(ROOT)
    assert key_names(fleet, "assignments", Targets.type) == sorted(ASSIGNMENTS)


def test_making_them_may_be_killed_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    with copied_at_every_write(monkeypatch, fleet, tmp_path / "copies", WRITES) as copies:
        create(fleet, ring(fleet), NOW)
    for number, copy in enumerate(copies):
        create(copy, ring(copy), NOW)
        updates = pinned(tmp_path / f"updates{number}", copy)
        for name in ("releases", "assignments", "media", "media-assignments"):
            assert see(updates, copy, name).names() == []
    assert len(copies) > 12


def test_a_key_that_is_missing_is_not_made_anew_behind_the_back_of_the_roots(fleet: Path) -> None:
    ring(fleet).file("releases-1").unlink()
    with pytest.raises(FleetError, match="revoke it"):
        create(fleet, ring(fleet), NOW)


def test_a_passphrase_packs_keys_and_never_shows(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    locked = keyring(tmp_path / "keys", {PASSPHRASE_FILE_ENV: str(tmp_path / "secret")})
    made = locked.generate("assignments")
    assert "sesame" not in repr(locked)
    assert b"ENCRYPTED" in locked.file("assignments").read_bytes()
    same = keyring(tmp_path / "keys", {PASSPHRASE_ENV: "open sesame"})
    assert same.signer("assignments").public_key.keyid == made.public_key.keyid
    for environment in ({}, {PASSPHRASE_ENV: "wrong"}):
        with pytest.raises(FleetError, match=PASSPHRASE_ENV) as caught:
            keyring(tmp_path / "keys", environment).signer("assignments")
        assert "wrong" not in str(caught.value)
    with pytest.raises(FleetError, match="cannot be read"):
        keyring(tmp_path / "keys", {PASSPHRASE_FILE_ENV: str(tmp_path / "nothing")})


def test_keys_that_cannot_be_used_say_why(fleet: Path) -> None:
    keys = ring(fleet)
    with pytest.raises(FleetError, match="no key 'master'"):
        keys.signer("master")
    with pytest.raises(FleetError, match="rotate or revoke"):
        keys.generate("releases-1")
    keys.file("releases-1").chmod(0o640)
    with pytest.raises(FleetError, match="chmod 600"):
        keys.signer("releases-1")
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keys.file("releases-2").write_bytes(other)
    with pytest.raises(FleetError, match="ed25519"):
        keys.signer("releases-2")
    keys.file("assignments").unlink()
    with pytest.raises(FleetError, match="stick"):
        keys.signer("assignments")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("replace", [rotate, revoke])
def test_a_replaced_key_signs_no_more_and_devices_follow(
    fleet: Path, tmp_path: Path, name: str, replace: type[rotate]
) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    works(fleet, updates)
    roots = {family: (key_names(fleet, family, Root.type), key_names(fleet, family, Targets.type))
             for family in ("releases", "assignments")}  # fmt: skip
    old = ring(fleet).signer(name)
    new_id = replace(fleet, ring(fleet), name, NOW)
    assert ring(fleet).signer(name).public_key.keyid == new_id != old.public_key.keyid
    for family, names in roots.items():
        assert (key_names(fleet, family, Root.type), key_names(fleet, family, Targets.type)) == names
        assert old.public_key.keyid not in Repository(fleet, family).root().signed.keys
    works(fleet, updates)
    works(fleet, pinned(tmp_path / "new", fleet))
    kept = sorted(path.name for path in ring(fleet).file(name).parent.iterdir())
    retired = [f"retired-{old.public_key.keyid[:12]}.pem"] if replace is rotate else []
    assert kept == ["key.pem", *retired]
    if name in ("releases-1", "assignments"):
        repository = "releases" if name == "releases-1" else "assignments"
        signers = [old, ring(fleet).signer("releases-2")] if name == "releases-1" else [old]
        Forged(fleet, repository, signers).commit({}, signers, NOW)
        with pytest.raises(TrustError, match=r"signed by [01]/[12] keys"):
            see(updates, fleet, repository)


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_key_is_replaced_without_it(fleet: Path, tmp_path: Path, name: str) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    works(fleet, updates)
    ring(fleet).file(name).unlink()
    revoke(fleet, ring(fleet), name, NOW)
    works(fleet, updates)
    assert key_names(fleet, "assignments", Root.type) == sorted(ROOT)


def test_a_lost_online_key_is_replaced_while_recovery_stays_in_its_safe(fleet: Path, tmp_path: Path) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    ring(fleet).file("assignments").unlink()
    safe = ring(fleet).file("recovery").rename(tmp_path / "safe.pem")
    revoke(fleet, ring(fleet), "assignments", NOW)
    works(fleet, updates)
    assert key_names(fleet, "assignments", Root.type) == sorted(ROOT)
    assert key_names(fleet, "assignments", Targets.type) == ["assignments"]
    safe.rename(ring(fleet).file("recovery"))
    revoke(fleet, ring(fleet), "releases-1", NOW)
    works(fleet, updates)


def test_with_too_few_keys_at_hand_no_root_changes(fleet: Path, tmp_path: Path) -> None:
    for name in ("releases-1", "recovery"):
        ring(fleet).file(name).unlink()
    before = tree(fleet / "repository")
    for name in ("releases-1", "assignments"):
        with pytest.raises(FleetError, match="needs 2 of releases-1, releases-2, recovery"):
            revoke(fleet, ring(fleet), name, NOW)
        now = tree(fleet / "repository")
        assert {path for path in now if "root" in path} == {path for path in before if "root" in path}


@pytest.mark.parametrize("name", ["releases-1", "recovery", "assignments"])
def test_a_rotation_killed_at_any_write_is_completed_and_devices_follow_from_everywhere(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with copied_at_every_write(monkeypatch, fleet, tmp_path / "copies", WRITES) as copies:
        rotate(fleet, ring(fleet), name, NOW)
    for number, copy in enumerate(copies):
        updates = pinned(tmp_path / f"updates{number}", copy)
        for repository in ("releases", "assignments", "media", "media-assignments"):
            see(updates, copy, repository)
        rotate(copy, ring(copy), name, NOW)
        signs(copy, updates)
        assert not ring(copy).file(name, "next.pem").exists()
    assert len(copies) > 4


def test_a_device_that_slept_through_three_rotations_walks_all_of_them(fleet: Path, tmp_path: Path) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    see(updates, fleet, "releases")
    late = NOW
    for name in ("releases-1", "releases-2", "recovery"):
        late += 300 * DAY
        rotate(fleet, ring(fleet), name, late)
    renew(fleet, ring(fleet), now_s=late)
    assert Repository(fleet, "releases").root().signed.version == 4
    works(fleet, updates, late)


def test_two_of_the_stolen_keys_of_before_do_not_make_a_root_of_now(fleet: Path, tmp_path: Path) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    stolen: list[Keyring] = [ring(shutil.copytree(fleet, tmp_path / "stolen"))]
    for name in RELEASES:
        revoke(fleet, ring(fleet), name, NOW)
    see(updates, fleet, "releases")
    thief = stolen[0].folder.parent
    revoke(thief, stolen[0], "recovery", NOW)
    with pytest.raises(TrustError, match="signed by 0/2 keys"):
        see(updates, thief, "releases")
