"""Signed repositories on disk: what is written, in which order, so that a reader always finds one consistent state.

A change is written as target files, ``N.targets.json``, ``N.snapshot.json`` and, last, ``timestamp.json``. Until the
last rename every reader sees the state before; files that a killed writer left are named by nothing and are written
over by the next one. Every ``N.root.json`` stays for ever: a device that slept for years walks through all of them.

Keys are handed in as signers; this module never sees a key file.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from headland_edge.trust import FAMILY, ISSUED_FIELD, NAME_FIELD
from securesystemslib.signer import Signer  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from tasks.durable import write_bytes

LIFETIME_DAYS = {"releases": 365, "assignments": 30, "media": 3650, "media-assignments": 3650}
"""After it devices take nothing more from a repository until it is signed again; what they run goes on."""
ROOT_LIFETIME_DAYS = 7300
_SERIALIZER = JSONSerializer(compact=True)


class FleetError(RuntimeError):
    """The fleet's repositories or keys are not as they must be; the message says what to do."""


@dataclass(frozen=True)
class File:
    """A file to be signed.

    Args:
        data: its bytes.
        custom: what is signed with it.
    """

    data: bytes
    custom: Mapping[str, Any]


class Repository:
    """One of the repositories below ``<fleet>/repository``.

    Args:
        fleet: the fleet's folder.
        name: one of ``headland_edge.trust.FAMILY``.
    """

    def __init__(self, fleet: Path, name: str) -> None:
        self.name = name
        self.family = FAMILY[name]
        self._metadata = fleet / "repository" / name / "metadata"
        self._targets = fleet / "repository" / name / "targets"

    def roots(self) -> list[Path]:
        """All roots, oldest first."""
        return sorted(self._metadata.glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))

    def root(self) -> Metadata[Root]:
        """The newest root. Raises FleetError if there is none."""
        roots = self.roots()
        if not roots:
            raise FleetError(f"{self._metadata}: no root yet; make the fleet with: headland fleet init")
        return Metadata[Root].from_file(str(roots[-1]))

    def write_root(self, root: Metadata[Root]) -> None:
        """Publish a root that was signed."""
        write_bytes(self._metadata / f"{root.signed.version}.root.json", root.to_bytes(_SERIALIZER))

    def timestamp(self) -> Metadata[Timestamp] | None:
        """What is published now; None before the first commit."""
        return self._read(Timestamp, "timestamp.json")

    def targets(self) -> dict[str, TargetFile]:
        """Files signed now, by name."""
        published = self._published_targets()
        return dict(published.signed.targets) if published else {}

    def current(self) -> list[Path]:
        """Files of the metadata that counts now, roots left out."""
        timestamp, snapshot = self.timestamp(), self._published_snapshot()
        if timestamp is None or snapshot is None:
            return []
        names = (
            f"{snapshot.signed.meta['targets.json'].version}.targets.json",
            f"{timestamp.signed.snapshot_meta.version}.snapshot.json",
            "timestamp.json",
        )
        return [self._metadata / name for name in names]

    def stored(self, name: str) -> str:
        """Path below ``targets`` of a file signed now."""
        return _stored(name, self.targets()[name].hashes["sha256"])

    def content(self, name: str) -> bytes:
        """Bytes of a file signed now. Raises FleetError if they are gone or not the ones signed."""
        target = self.targets().get(name)
        path = None if target is None else self._targets / _stored(name, target.hashes["sha256"])
        if target is None or path is None or not path.is_file():
            raise FleetError(f"{self.name}: {name} is not there; publish it again")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != target.hashes["sha256"]:
            raise FleetError(f"{path}: damaged; publish it again")
        return data

    def differs(self, wanted: Mapping[str, TargetFile]) -> bool:
        """Whether ``wanted`` is not what is signed now."""
        return self._published_targets() is None or {n: t.to_dict() for n, t in self.targets().items()} != {
            n: t.to_dict() for n, t in wanted.items()
        }

    def add_files(self, files: Mapping[str, File]) -> dict[str, TargetFile]:
        """Put files where devices will look for them; they count only once ``commit`` has signed them."""
        for name, file in files.items():
            path = self._targets / _stored(name, hashlib.sha256(file.data).hexdigest())
            if not path.is_file() or path.read_bytes() != file.data:
                write_bytes(path, file.data)
        return {name: target_of(name, file) for name, file in files.items()}

    def commit(self, wanted: Mapping[str, TargetFile], signers: Sequence[Signer], now_s: float | None = None) -> int:
        """Sign ``wanted`` as all there is, and publish it.

        Returns:
            Version of the new timestamp.

        Raises:
            FleetError: the signers are not enough for this repository's root.
        """
        now = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC).replace(microsecond=0)
        old_targets, old_snapshot, old_timestamp = (
            self._published_targets(),
            self._published_snapshot(),
            self.timestamp(),
        )
        targets = self._signed(Targets(targets=dict(wanted)), old_targets, now, signers)
        snapshot = Snapshot(meta={"targets.json": _meta(*targets)})
        signed_snapshot = self._signed(snapshot, old_snapshot, now, signers)
        timestamp = Timestamp(snapshot_meta=_meta(*signed_snapshot))
        version, data = self._signed(timestamp, old_timestamp, now, signers)
        write_bytes(self._metadata / f"{targets[0]}.targets.json", targets[1])
        write_bytes(self._metadata / f"{signed_snapshot[0]}.snapshot.json", signed_snapshot[1])
        write_bytes(self._metadata / "timestamp.json", data)
        return version

    def days_left(self, now_s: float | None = None) -> float:
        """Days until devices take nothing more from here."""
        published = self.timestamp()
        if published is None:
            return 0.0
        now = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)
        return (published.signed.expires - now) / timedelta(days=1)

    def _signed(
        self, part: Any, old: Metadata[Any] | None, now: datetime, signers: Sequence[Signer]
    ) -> tuple[int, bytes]:
        """Version and bytes of the successor of ``old``, verified against root before anybody sees it."""
        part.version = old.signed.version + 1 if old else 1
        part.expires = now + timedelta(days=LIFETIME_DAYS[self.name])
        part.unrecognized_fields = {NAME_FIELD: self.name, ISSUED_FIELD: int(now.timestamp())}
        metadata = Metadata(part)
        for signer in signers:
            metadata.sign(signer, append=True)
        try:
            self.root().signed.verify_delegate(part.type, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise FleetError(f"{self.name}: not signed by enough keys of its root ({error}); give all keys") from None
        return part.version, metadata.to_bytes(_SERIALIZER)

    def _published_snapshot(self) -> Metadata[Snapshot] | None:
        timestamp = self.timestamp()
        return self._read(Snapshot, f"{timestamp.signed.snapshot_meta.version}.snapshot.json") if timestamp else None

    def _published_targets(self) -> Metadata[Targets] | None:
        snapshot = self._published_snapshot()
        return self._read(Targets, f"{snapshot.signed.meta['targets.json'].version}.targets.json") if snapshot else None

    def _read(self, kind: Any, name: str) -> Metadata[Any] | None:
        path = self._metadata / name
        try:
            return Metadata[kind].from_file(str(path)) if path.exists() else None
        except RepositoryError as error:
            raise FleetError(f"{path}: damaged ({error}); restore it from the backup") from None


def new_root(
    family: str, root_keys: Sequence[Signer], role_keys: Sequence[Signer], thresholds: tuple[int, int], now_s: float
) -> Root:
    """An unsigned first root: ``root_keys`` may change it, ``role_keys`` sign all else, as many as ``thresholds``."""
    root = Root(version=1, consistent_snapshot=True)
    for key in root_keys:
        root.add_key(key.public_key, Root.type)
    root.roles[Root.type].threshold = thresholds[0]
    for role in (Targets.type, Snapshot.type, Timestamp.type):
        for key in role_keys:
            root.add_key(key.public_key, role)
        root.roles[role].threshold = thresholds[1]
    return dated(root, family, now_s)


def dated(root: Root, family: str, now_s: float) -> Root:
    """``root`` with its family's name, issued now, with its lifetime ahead."""
    now = datetime.fromtimestamp(now_s, UTC).replace(microsecond=0)
    root.expires = now + timedelta(days=ROOT_LIFETIME_DAYS)
    root.unrecognized_fields = {NAME_FIELD: family, ISSUED_FIELD: int(now.timestamp())}
    return root


def repositories(fleet: Path, family: str) -> Iterator[Repository]:
    """All repositories of a family."""
    return (Repository(fleet, name) for name, of in FAMILY.items() if of == family)


def target_of(name: str, file: File) -> TargetFile:
    """How ``file`` is described when signed."""
    hashes = {"sha256": hashlib.sha256(file.data).hexdigest()}
    return TargetFile(len(file.data), hashes, name, {"custom": dict(file.custom)} if file.custom else None)


@contextmanager
def locked(fleet: Path, *, dry_run: bool = False) -> Iterator[None]:
    """One writer at a time; the lock goes with its process. A dry run waits for nobody and writes nothing."""
    if dry_run:
        yield
        return
    fleet.mkdir(parents=True, exist_ok=True)
    with (fleet / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def _stored(name: str, sha256: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{sha256}.{file}"
