"""What is signed: two TUF repositories, seen by a device whose clock and network cannot be relied on.

``releases`` says what may exist (keys offline, two of two), ``assignments`` who runs what (one key online). Each has a
twin with long expiry for sticks, ``media`` and ``media-assignments``, below the same roots. On top of what python-tuf
checks (signatures, rollback, freeze, mix-and-match, lengths) stand three things:

- **A name in every file.** Roots of both families are signed by the same people, and the twins by the same keys; a
  signed field says which repository a file belongs to, and a file of another one is refused before tuf sees it.
- **A floor of time.** Metadata says when it was issued. Reference time is the later of the system clock and the newest
  issue seen, kept on disk: a clock at 1970 cannot make old metadata fresh. The floor rises by what was *signed* only,
  never by the system clock, so that a clock at 2100 pauses updates and leaves nothing behind.
- **A floor of serials.** An old stick must not undo newer assignments that came over the network.

The floors of assignments are tied to the keys they were signed with. Whoever steals the online key can push them up;
once root has replaced that key they are forgotten, and they never bear on releases.

Layout: <updates>/<family>/root.json (pinned when the device was made), <updates>/<family>/newest-root.json,
<updates>/<repository>/metadata/ (tuf's), <updates>/floors.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, Targets, Timestamp  # type: ignore[attr-defined]
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from headland_edge.durable import flush, write_bytes
from headland_edge.fetch import LengthError, MissingError, Source

NAME_FIELD = "x-headland-repository"
ISSUED_FIELD = "x-headland-issued-s"
FAMILY = {
    "releases": "releases",
    "media": "releases",
    "assignments": "assignments",
    "media-assignments": "assignments",
}
"""Of each repository the family whose root it stands below."""
ASSIGNMENTS = "assignments.json"
"""Name of the one file of ``assignments``."""
_LAST_S = 250_000_000_000.0  # before the year 9999, the last that a datetime can hold
_CONFIG = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=1,
    root_max_length=64 * 1024,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=64 * 1024,
    targets_max_length=1024 * 1024,
)


class TrustError(Exception):
    """Signed metadata cannot be had. ``code``: not-pinned, expired, signature; the text says what to do."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Target:
    """A file that was signed.

    Args:
        name: in its repository.
        path: where the source has it.
        length: bytes.
        sha256: of its content.
        custom: what was signed with it.
    """

    name: str
    path: str
    length: int
    sha256: str
    custom: dict[str, Any]


class Floors:
    """What a device has seen signed, by family: newest issue, highest serial, and by which keys."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: dict[str, dict[str, Any]] = {}
        try:
            plain = json.loads(file.read_bytes()[:65536])
        except (OSError, ValueError):
            plain = {}
        if isinstance(plain, dict):
            self._seen = {name: seen for name, seen in plain.items() if name in FAMILY and _is_seen(seen)}

    def issued_s(self, family: str) -> float:
        """Seconds since 1970 that it is at least."""
        return float(self._seen.get(family, {}).get("issued_s", 0.0))

    def serial(self, family: str) -> int:
        """Highest serial seen."""
        return int(self._seen.get(family, {}).get("serial", 0))

    def meet(self, family: str, keys: list[str]) -> None:
        """Forget a family's floors if they were signed with other keys than are valid now."""
        if family in self._seen and self._seen[family]["keys"] != keys:
            del self._seen[family]
            self._write()

    def raise_to(self, family: str, keys: list[str], *, issued_s: float = 0.0, serial: int = 0) -> None:
        """Raise a family's floors, on disk when this returns; they never sink."""
        new = {
            "keys": keys,
            "issued_s": max(issued_s, self.issued_s(family)),
            "serial": max(serial, self.serial(family)),
        }
        if new != self._seen.get(family):
            self._seen[family] = new
            self._write()

    def _write(self) -> None:
        write_bytes(self._file, json.dumps(self._seen, sort_keys=True).encode())


class Trust:
    """The signed repositories as this device sees them.

    Args:
        folder: ``Home.updates``.
        source: where their files come from.
        now_s: system clock, seconds since 1970, right or wrong.
    """

    def __init__(self, folder: Path, source: Source, now_s: float) -> None:
        self._folder = folder
        self._source = source
        self._now_s = now_s if now_s == now_s else 0.0
        self.floors = Floors(folder / "floors.json")

    def reference_s(self, family: str) -> float:
        """The time it is, as far as expiry in ``family`` is concerned, seconds since 1970."""
        return min(max(self._now_s, self.floors.issued_s(family), 0.0), _LAST_S)

    def refresh(self, repository: str) -> Signed:
        """All metadata of ``repository``, fetched and verified.

        Raises:
            TrustError: not pinned, expired (or the clock is wrong), or any check of a signature failed.
            FetchError: from the source: offline, or the day's bytes spent.
        """
        family = FAMILY[repository]
        fetcher = _Fetcher(self._source, repository)
        with _told(repository, self._now_s):
            updater = self._updater(repository, fetcher)
            newest = self._folder / repository / "metadata" / "root.json"
            try:
                updater._load_root()  # roots alone first: which keys count decides which floors do
            finally:
                self._keep_root(family, newest)
            root = updater._trusted_set.root
            keys = _keys_of(root)
            self.floors.meet(family, keys)
            self.floors.raise_to(family, keys, issued_s=_issued_s(root.unrecognized_fields))
            # tuf has no public way to say what time it is; the tests with clocks at 1970 and 2100 hold this line.
            updater._trusted_set.reference_time = datetime.fromtimestamp(self.reference_s(family), UTC)
            updater.refresh()
        flush(self._folder / repository / "metadata")
        signed = Signed(self._folder, repository, self._source, updater, keys)
        self.floors.raise_to(family, keys, issued_s=signed.issued_s)
        return signed

    def _updater(self, repository: str, fetcher: _Fetcher) -> Updater:
        """An updater that starts from the newest root known, or from the pinned one if that is damaged."""
        metadata = self._folder / repository / "metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        family = self._folder / FAMILY[repository]
        for name in ("newest-root.json", "root.json"):
            root = _root_in(family / name, FAMILY[repository])
            if root is not None:
                return Updater(str(metadata), "metadata", fetcher=fetcher, config=_CONFIG, bootstrap=root)
        raise TrustError(
            "not-pinned",
            f"{family / 'root.json'}: no root to trust; pin it with: headland-edge init --root-{family.name} FILE",
        )

    def _keep_root(self, family: str, newest: Path) -> None:
        data = newest.read_bytes()
        kept = self._folder / family / "newest-root.json"
        if not kept.exists() or kept.read_bytes() != data:
            write_bytes(kept, data)


class Signed:
    """A repository whose metadata was verified."""

    def __init__(self, folder: Path, repository: str, source: Source, updater: Updater, keys: list[str]) -> None:
        self._folder = folder / repository
        self._repository = repository
        self._source = source
        self._updater = updater
        self.keys = keys
        timestamp = Metadata[Timestamp].from_file(str(self._folder / "metadata" / "timestamp.json")).signed
        self.issued_s = _issued_s(timestamp.unrecognized_fields)

    def target(self, name: str) -> Target | None:
        """The file ``name``, or None if it was not signed. Raises TrustError if what was signed is nonsense."""
        info = self._updater.get_targetinfo(name)
        if info is None:
            return None
        sha256, custom = info.hashes.get("sha256"), info.custom
        if not isinstance(sha256, str) or not isinstance(custom or {}, dict):
            raise TrustError("signature", f"{self._repository}, {name}: signed without a SHA-256")
        folder, slash, file = name.rpartition("/")
        path = f"{self._repository}/targets/{folder}{slash}{sha256}.{file}"
        return Target(name, path, info.length, sha256, custom or {})

    def floor(self) -> int:
        """Highest floor signed with any bundle: release counters below it may not be installed."""
        bundles = (self.target(name) for name in self.names() if name.startswith("bundles/"))
        floors = [bundle.custom.get("floor") for bundle in bundles if bundle is not None]
        return max((floor for floor in floors if type(floor) is int), default=0)

    def names(self) -> list[str]:
        """Names of all files signed, sorted."""
        file = self._folder / "metadata" / "targets.json"
        return sorted(Metadata[Targets].from_file(str(file)).signed.targets)


def bundle_name(sha256: str) -> str:
    """Name of a bundle in its repository."""
    return f"bundles/{sha256}.tar"


def patch_name(old: str, new: str) -> str:
    """Name of the patch from one bundle to another, by their SHA-256."""
    return f"patches/{old[:12]}-{new[:12]}.hpatch"


def pin(folder: Path, family: str, root: bytes) -> None:
    """Make ``root`` the start of all trust in ``family`` on this device.

    Args:
        folder: ``Home.updates``.
        family: ``releases`` or ``assignments``.
        root: a ``N.root.json`` that came by a way that can be trusted.

    Raises:
        TrustError: not a root of this family, signed by enough of its own keys.
    """
    try:
        signed = _verified_root(root, family)
    except RepositoryError as error:
        raise TrustError("signature", f"not a root of {family}: {error}") from None
    (folder / family / "newest-root.json").unlink(missing_ok=True)
    write_bytes(folder / family / "root.json", root)
    floors = Floors(folder / "floors.json")
    floors.meet(family, _keys_of(signed))
    floors.raise_to(family, _keys_of(signed), issued_s=_issued_s(signed.unrecognized_fields))


class _Fetcher(FetcherInterface):
    """A source as tuf wants it; refuses files that belong to another repository."""

    def __init__(self, source: Source, repository: str) -> None:
        self._source = source
        self._repository = repository

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _CONFIG.targets_max_length)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file. Raises what tuf expects for a missing and a too long one, the rest as it is."""
        try:
            data = self._source.read(f"{self._repository}/{url}", max_length)
        except MissingError as error:
            raise DownloadHTTPError(str(error), 404) from None
        except LengthError as error:
            raise DownloadLengthMismatchError(str(error)) from None
        is_root = url.endswith(".root.json")
        _check_name(data, url, FAMILY[self._repository] if is_root else self._repository)
        return data


def _root_in(file: Path, family: str) -> bytes | None:
    """A root that is whole and signed by its own keys; None if there is none in ``file``."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    try:
        _verified_root(data, family)
    except RepositoryError:
        return None
    return data


def _verified_root(data: bytes, family: str) -> Root:
    """Raises RepositoryError unless it is a root of ``family``, signed by enough of its own keys."""
    _check_name(data, "root.json", family)
    metadata = Metadata[Root].from_bytes(data)
    if not isinstance(metadata.signed, Root):
        raise RepositoryError("no root")
    metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    return metadata.signed


def _check_name(data: bytes, url: str, expected: str) -> None:
    """Raise RepositoryError unless the file says that it belongs to ``expected``; tuf checks who signed that."""
    try:
        plain = json.loads(data)
        found = plain["signed"][NAME_FIELD]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RepositoryError(f"{url}: no metadata of a headland repository") from None
    if found != expected:
        raise RepositoryError(f"{url}: belongs to {str(found)[:40]!r}, not to {expected!r}")


@contextmanager
def _told(repository: str, now_s: float) -> Iterator[None]:
    """Errors of tuf in words for a technician."""
    try:
        yield
    except ExpiredMetadataError as error:
        day = datetime.fromtimestamp(min(max(now_s, 0.0), _LAST_S), UTC).date()
        raise TrustError(
            "expired",
            f"{repository}: {error}; this device's clock says {day}. If that is wrong, set the clock and updates go "
            "on; if it is right, the publisher must sign again. Advice goes on in any case",
        ) from None
    except DownloadHTTPError as error:
        raise MissingError(f"{repository}: {error}") from None
    except (RepositoryError, DownloadError) as error:
        raise TrustError("signature", f"{repository}: refused: {error}") from None


def _keys_of(root: Root) -> list[str]:
    return sorted(root.roles[Timestamp.type].keyids)


def _issued_s(fields: dict[str, Any]) -> float:
    issued = fields.get(ISSUED_FIELD)
    return float(issued) if type(issued) is int and 0 <= issued <= _LAST_S else 0.0


def _is_seen(seen: object) -> bool:
    if not isinstance(seen, dict) or not isinstance(seen.get("keys"), list):
        return False
    issued_s, serial = seen.get("issued_s"), seen.get("serial")
    if isinstance(issued_s, bool) or not isinstance(issued_s, int | float) or not 0 <= issued_s <= _LAST_S:
        return False
    return type(serial) is int and serial >= 0
