"""Publishing a release: a verified bundle becomes something devices may install, over the network and from a stick.

Idempotent by hash: a bundle that is published is not signed again; what a killed publisher left half done is completed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headland_edge.bundle import open_bundle
from headland_edge.patches import make_patch
from headland_edge.trust import FAMILY, bundle_name, patch_name
from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from tasks.fleet.keys import RELEASES, ROLE_KEYS, Keyring
from tasks.fleet.repository import LIFETIME_DAYS, File, FleetError, Repository, locked, target_of

PATCHES_FROM = 3
"""Latest releases that get a patch to a new one."""
_WORTH_IT = 0.8
"""A patch that is not smaller than this share of the whole is left out."""
_RENEW_SHARE = 0.5
_REPOSITORIES = ("releases", "media")


@dataclass(frozen=True)
class Published:
    """What publishing did, or would do.

    Args:
        sha256: of the bundle.
        counter: its release counter.
        floor: devices may no longer install counters below.
        changed: repositories that were (or would be) signed anew; none if all was there.
        added: bytes by name of the files new in ``releases``.
        dry_run: nothing was written.
    """

    sha256: str
    counter: int
    floor: int
    changed: tuple[str, ...]
    added: dict[str, int]
    dry_run: bool


def publish(
    fleet: Path,
    bundle: Path,
    keys: Keyring,
    *,
    floor: int | None = None,
    dry_run: bool = False,
    now_s: float | None = None,
) -> Published:
    """Publish a bundle.

    Args:
        fleet: the fleet's folder.
        bundle: file of the bundle.
        keys: both release keys are needed, unless ``dry_run``.
        floor: release counters below it may no longer be installed anywhere, ever; None: as before.
        dry_run: only tell what would change.
        now_s: time of signing, seconds since 1970; None for the system clock.

    Raises:
        BundleError: not a whole bundle.
        FleetError: its counter is taken by another release or below the floor, or keys are missing.
    """
    opened = open_bundle(bundle)
    data, release = bundle.read_bytes(), opened.manifest.release
    with locked(fleet, dry_run=dry_run):
        releases = Repository(fleet, "releases")
        signed = releases.targets()
        lowest = max(signed_floor(signed), floor or 0)
        name = bundle_name(opened.sha256)
        _check_counter(signed, name, release.counter, lowest)
        before = signed[name].custom["floor"] if name in signed else 0
        custom = {"counter": release.counter, "as_of": release.as_of, "floor": max(before, floor or 0)}
        files = {name: File(data, custom)}
        if name not in signed:
            files |= _patches(releases, signed, data, opened.sha256, release.counter)
        wanted = {**signed, **{key: target_of(key, file) for key, file in files.items()}}
        changed = _bring(fleet, wanted, files, keys, dry_run=dry_run, now_s=now_s)
        added = {key: len(file.data) for key, file in files.items() if key not in signed}
        return Published(opened.sha256, release.counter, lowest, changed, added, dry_run)


def released(fleet: Path) -> dict[str, dict[str, Any]]:
    """Releases that may be installed: counter, as_of and floor by SHA-256, by rising counter."""
    signed = Repository(fleet, "releases").targets()
    found = {_sha_of(name): dict(target.custom) for name, target in signed.items() if name.startswith("bundles/")}
    return dict(sorted(found.items(), key=lambda each: each[1]["counter"]))


def renew(
    fleet: Path, keys: Keyring, *, names: tuple[str, ...] = tuple(FAMILY), now_s: float | None = None
) -> list[str]:
    """Sign again what has lived half of its time; repeatable. Returns names of the repositories signed."""
    done = []
    with locked(fleet):
        for name in names:
            repository = Repository(fleet, name)
            if repository.days_left(now_s) < LIFETIME_DAYS[name] * _RENEW_SHARE:
                repository.commit(repository.targets(), keys.signers(ROLE_KEYS[FAMILY[name]]), now_s)
                done.append(name)
    return done


def signed_floor(signed: dict[str, TargetFile]) -> int:
    """Highest floor among all releases signed."""
    return max((target.custom["floor"] for name, target in signed.items() if name.startswith("bundles/")), default=0)


def _check_counter(signed: dict[str, TargetFile], name: str, counter: int, floor: int) -> None:
    if counter < floor:
        raise FleetError(
            f"release {counter} lies below the floor {floor}; raise its counter (bundle.counter in params)"
        )
    for other, target in signed.items():
        if other != name and other.startswith("bundles/") and target.custom["counter"] == counter:
            raise FleetError(f"release {counter} is another bundle already ({_sha_of(other)[:12]}…); raise the counter")


def _patches(
    releases: Repository, signed: dict[str, TargetFile], data: bytes, sha256: str, counter: int
) -> dict[str, File]:
    """Patches from the latest releases below this one, where they are worth it."""
    older = sorted(
        (target.custom["counter"], name)
        for name, target in signed.items()
        if name.startswith("bundles/") and target.custom["counter"] < counter
    )[-PATCHES_FROM:]
    found = {}
    for _, name in older:
        patch = make_patch(releases.content(name), data)
        if len(patch) < _WORTH_IT * len(data):
            custom = {"from": _sha_of(name), "to": sha256}
            found[patch_name(_sha_of(name), sha256)] = File(patch, custom)
    return found


def _bring(
    fleet: Path,
    wanted: dict[str, TargetFile],
    files: dict[str, File],
    keys: Keyring,
    *,
    dry_run: bool,
    now_s: float | None,
) -> tuple[str, ...]:
    """Make each repository hold ``wanted``; a stick's twin gets from its sister what it lacks."""
    changed = []
    for name in _REPOSITORIES:
        repository = Repository(fleet, name)
        if not repository.differs(wanted):
            continue
        changed.append(name)
        if not dry_run:
            lacking = wanted.keys() - repository.targets().keys() - files.keys()
            sister = Repository(fleet, "releases")
            repository.add_files({**files, **{each: File(sister.content(each), {}) for each in sorted(lacking)}})
            repository.commit(wanted, keys.signers(RELEASES), now_s)
    return tuple(changed)


def _sha_of(name: str) -> str:
    return name.removeprefix("bundles/").removesuffix(".tar")
