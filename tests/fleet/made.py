"""A fleet on disk, really signed, and devices that trust it: what tests of keys, repositories and updates share."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from headland_edge.accept import Accepted, Device, _fits, _whole
from headland_edge.bundle import encode_bundle
from headland_edge.fetch import FolderSource
from headland_edge.home import Home, Settings, Updates, make
from headland_edge.slots import Slots
from headland_edge.trust import Signed, Trust, pin
from headland_edge.update import Outcome, update
from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # it has one
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]  # it has them

from tasks.fleet.assign import set_assignments
from tasks.fleet.keys import Keyring, create, keyring
from tasks.fleet.publish import publish
from tasks.fleet.repository import Repository, new_root
from tests.edge.small_bundle import parts

NOW = 1_790_000_000.0
DAY = 86_400.0
DEVICE = "field-1"


@cache
def _small_parts() -> tuple[dict[str, Any], dict[str, bytes]]:
    return parts()


@cache
def release(counter: int, card: str = "", noise_bytes: int = 0, **changes: Any) -> bytes:
    """Bytes of a release; ``card`` makes another bundle of the same counter, noise one that no patch makes small."""
    manifest, members = _small_parts()
    members = {**members, "MODEL_CARD.md": f"# Release {counter} {card}\n".encode()}
    if noise_bytes:
        members["noise.bin"] = random.Random(counter).randbytes(noise_bytes)
    told: dict[str, Any] = {"release": {"counter": counter, "as_of": 2009}}
    told["budgets"] = {"latency_p99_ms": 500.0, "peak_rss_mb": 500.0}
    return encode_bundle({**manifest, **told, **changes}, members)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(folder: Path, data: bytes) -> Path:
    """A file holding ``data``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sha(data)[:12]}.tar"
    path.write_bytes(data)
    return path


def make_fleet(fleet: Path, now_s: float = NOW) -> Path:
    keys = ring(fleet)
    create(fleet, keys, now_s)
    for counter in (1, 2):
        publish(fleet, put(fleet / "made", release(counter)), keys, now_s=now_s)
    set_assignments(fleet, keys, base=sha(release(1)), now_s=now_s)
    return fleet


def ring(fleet: Path) -> Keyring:
    return keyring(fleet / "keys", {})


def issue(fleet: Path, data: bytes, *, assign: bool = True, floor: int | None = None, now_s: float = NOW) -> str:
    """Publish a release and assign it to everybody; returns its hash."""
    publish(fleet, put(fleet / "made", data), ring(fleet), floor=floor, now_s=now_s)
    if assign:
        set_assignments(fleet, ring(fleet), base=sha(data), now_s=now_s)
    return sha(data)


def assign(fleet: Path, data: bytes | None, now_s: float = NOW) -> None:
    set_assignments(fleet, ring(fleet), base=data and sha(data), now_s=now_s)


def untried(data: bytes, sha256: str, device: Device) -> Accepted:
    """``accept`` without its process of its own, which takes most of a second."""
    bundle = _whole(data, sha256)
    _fits(bundle, device)
    return Accepted(bundle, 0.1, 30.0)


@dataclass
class Gadget:
    """A device under test."""

    home: Home
    now_s: float = NOW

    def look(self, **more: Any) -> Outcome:
        return update(self.home, **{"now_s": lambda: self.now_s, "accepting": untried, **more})

    def look_and_confirm(self, **more: Any) -> Outcome:
        """Look, start what came, and let it prove itself."""
        outcome = self.look(**more)
        slots = Slots(self.home.slots)
        slots.boot()
        slots.confirm()
        return outcome

    @property
    def runs(self) -> int | None:
        """Counter of what would run, from a whole bundle."""
        booted = Slots(self.home.slots).running()
        return booted.counter if booted else None

    @property
    def on_trial(self) -> bool:
        return Slots(self.home.slots).on_trial


def gadget(root: Path, fleet: Path, url: str = "", *, folder: str = "", **updates: Any) -> Gadget:
    """A new device that trusts the first roots of ``fleet``; without ``url`` it reads the repository's folder."""
    where = Updates(url=url, folder="" if url else folder or str(fleet / "repository"), **updates)
    home = make(root, Settings(DEVICE, "maize", where))
    for family in ("releases", "assignments"):
        first = Metadata[Root].from_file(str(fleet / "repository" / family / "metadata" / "1.root.json"))
        assert first.signed.version == 1
        pin(home.updates, family, (fleet / "repository" / family / "metadata" / "1.root.json").read_bytes())
    return Gadget(home)


def see(updates: Path, fleet: Path, repository: str, now_s: float = NOW) -> Signed:
    """What a device sees of a repository, all verified."""
    return Trust(updates, FolderSource(fleet / "repository"), now_s).refresh(repository)


def pinned(updates: Path, fleet: Path) -> Path:
    """A device's folder of trust that knows the first roots."""
    for family in ("releases", "assignments"):
        pin(updates, family, (fleet / "repository" / family / "metadata" / "1.root.json").read_bytes())
    return updates


class Forged(Repository):
    """A repository signed by whoever holds some keys, whatever its root says."""

    def __init__(self, fleet: Path, name: str, signers: Sequence[Signer]) -> None:
        super().__init__(fleet, name)
        self._signers = signers

    def root(self) -> Metadata[Root]:
        return Metadata(new_root(self.family, self._signers, self._signers, (1, 1), NOW))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its content, locks left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def copied_at_every_write(
    monkeypatch: pytest.MonkeyPatch, folder: Path, copies: Path, modules: Sequence[str]
) -> Iterator[list[Path]]:
    """What a power cut before or after each write leaves: ``folder`` as it was then, one copy each."""
    made: list[Path] = []

    def snapshot() -> None:
        made.append(shutil.copytree(folder, copies / f"{len(made)}"))

    def after(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*given: Any) -> Any:
            done = real(*given)
            snapshot()
            return done

        return write

    with monkeypatch.context() as patched:
        for name in modules:
            module, _, attribute = name.rpartition(".")
            patched.setattr(name, after(getattr(__import__(module, fromlist=[attribute]), attribute)))
        snapshot()
        yield made
