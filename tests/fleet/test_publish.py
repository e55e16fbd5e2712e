from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from headland_edge.bundle import BundleError
from headland_edge.patches import apply_patch
from headland_edge.trust import FAMILY, bundle_name, patch_name

from tasks.fleet.publish import PATCHES_FROM, publish, released, renew, signed_floor
from tasks.fleet.repository import FleetError, Repository
from tests.fleet.made import DAY, NOW, copied_at_every_write, issue, pinned, put, release, ring, see, sha, tree

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def fleet(signed_fleet: Path, tmp_path: Path) -> Path:
    return shutil.copytree(signed_fleet, tmp_path / "fleet")


def test_a_release_is_published_once_for_network_and_stick(fleet: Path) -> None:
    bundle = put(fleet / "made", release(3))
    done = publish(fleet, bundle, ring(fleet), now_s=NOW)
    assert (done.sha256, done.counter, done.floor, done.changed) == (sha(release(3)), 3, 0, ("releases", "media"))
    assert bundle_name(done.sha256) in done.added
    before = tree(fleet)
    again = publish(fleet, bundle, ring(fleet), now_s=NOW + DAY)
    assert (again.changed, again.added) == ((), {})
    assert tree(fleet) == before
    assert Repository(fleet, "media").targets() == Repository(fleet, "releases").targets()
    assert [each["counter"] for each in released(fleet).values()] == [1, 2, 3]


def test_a_dry_run_tells_the_same_and_writes_nothing_without_any_key(fleet: Path, tmp_path: Path) -> None:
    bundle = put(tmp_path, release(3))
    shutil.rmtree(fleet / "keys")
    before = tree(fleet)
    told = publish(fleet, bundle, ring(fleet), dry_run=True, now_s=NOW)
    assert told.dry_run
    assert told.changed == ("releases", "media")
    assert sorted(told.added) == sorted(
        [bundle_name(told.sha256), *(patch_name(sha(release(old)), told.sha256) for old in (1, 2))]
    )
    assert tree(fleet) == before


def test_patches_lead_from_the_latest_releases_to_the_new_one(fleet: Path) -> None:
    for counter in (3, 4, 5):
        issue(fleet, release(counter), assign=False)
    new, repository = sha(release(5)), Repository(fleet, "media")
    patches = {name: target for name, target in repository.targets().items() if target.custom.get("to") == new}
    assert sorted(target.custom["from"] for target in patches.values()) == sorted(
        sha(release(old)) for old in (4, 3, 2)[:PATCHES_FROM]
    )
    for name, target in patches.items():
        old = next(release(k) for k in range(1, 5) if sha(release(k)) == target.custom["from"])
        assert apply_patch(old, repository.content(name), new) == release(5)
        assert target.length < 0.5 * len(release(5))


def test_a_counter_belongs_to_one_bundle(fleet: Path) -> None:
    with pytest.raises(FleetError, match=r"release 2 is another bundle already .*raise the counter"):
        issue(fleet, release(2, "other"))


def test_a_floor_is_signed_rises_only_and_binds_the_publisher_too(fleet: Path) -> None:
    bundle = put(fleet / "made", release(2))
    done = publish(fleet, bundle, ring(fleet), floor=2, now_s=NOW)
    assert (done.floor, done.changed) == (2, ("releases", "media"))
    assert publish(fleet, bundle, ring(fleet), floor=1, now_s=NOW).changed == ()
    assert signed_floor(Repository(fleet, "media").targets()) == 2
    with pytest.raises(FleetError, match="release 1 lies below the floor 2"):
        issue(fleet, release(1))
    with pytest.raises(FleetError, match="below the floor 9"):
        issue(fleet, release(3), floor=9)
    assert signed_floor(Repository(fleet, "releases").targets()) == 2


def test_what_is_no_whole_bundle_is_not_published(fleet: Path, tmp_path: Path) -> None:
    data = bytearray(release(3))
    data[1000] ^= 1
    (tmp_path / "bad.tar").write_bytes(data)
    before = tree(fleet)
    for path in (tmp_path / "bad.tar", tmp_path / "none.tar"):
        with pytest.raises(BundleError):
            publish(fleet, path, ring(fleet), now_s=NOW)
    assert tree(fleet) == before


def test_both_release_keys_are_needed(fleet: Path) -> None:
    ring(fleet).file("releases-2").unlink()
    before = tree(fleet / "repository" / "releases" / "metadata")
    with pytest.raises(FleetError, match="releases-2"):
        issue(fleet, release(3))
    assert tree(fleet / "repository" / "releases" / "metadata") == before


def test_a_publisher_killed_at_any_write_is_completed_by_the_next(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = put(tmp_path, release(3))
    writes = ["tasks.fleet.repository.write_bytes"]
    with copied_at_every_write(monkeypatch, fleet, tmp_path / "copies", writes) as copies:
        publish(fleet, bundle, ring(fleet), now_s=NOW)
    complete = Repository(fleet, "releases").targets()
    for number, copy in enumerate(copies):
        updates = pinned(tmp_path / f"updates{number}", copy)
        for name in ("releases", "media"):
            for signed in see(updates, copy, name).names():
                assert sha(Repository(copy, name).content(signed)) in str(
                    Repository(copy, name).targets()[signed].hashes
                )
        publish(copy, bundle, ring(copy), now_s=NOW)
        for name in ("releases", "media"):
            assert Repository(copy, name).targets() == complete
            assert see(updates, copy, name).names() == sorted(complete)
    assert len(copies) > 8


def test_what_has_lived_half_its_time_is_signed_again_with_the_keys_it_needs(fleet: Path, tmp_path: Path) -> None:
    updates = pinned(tmp_path / "updates", fleet)
    assert renew(fleet, ring(fleet), now_s=NOW + 14 * DAY) == []
    for name in ("releases-1", "releases-2", "recovery"):
        ring(fleet).file(name).rename(tmp_path / name)
    assert renew(fleet, ring(fleet), now_s=NOW + 16 * DAY) == ["assignments"]
    see(updates, fleet, "assignments", NOW + 40 * DAY)
    with pytest.raises(FleetError, match="releases-1"):
        renew(fleet, ring(fleet), now_s=NOW + 200 * DAY)
    (tmp_path / "releases-1").rename(ring(fleet).file("releases-1"))
    (tmp_path / "releases-2").rename(ring(fleet).file("releases-2"))
    assert "releases" in renew(fleet, ring(fleet), now_s=NOW + 200 * DAY)
    see(updates, fleet, "releases", NOW + 500 * DAY)
    assert set(renew(fleet, ring(fleet), now_s=NOW + 4000 * DAY)) == set(FAMILY)
