"""Faults of updates: kills, power cuts, disks, flipped bytes, clocks, thieves; see ``benchmarks/faults.py``."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from headland_edge.accept import accept
from headland_edge.assignment import Assignments, encode
from headland_edge.home import Home
from headland_edge.journal import Journal
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.raw_records import read
from headland_edge.ring import Ring
from headland_edge.sync import Sync
from headland_edge.trust import ASSIGNMENTS, bundle_name
from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # it has one
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]  # it has them

from benchmarks.fault_world import (
    DAY_S,
    DEVICE,
    Count,
    Say,
    Unsynced,
    World,
    advises,
    before_each_change,
    child,
    completes,
    judge,
    judged,
    kept,
    look,
    look_and_write,
    point_to,
    sha,
    small_disk,
)
from tasks.fleet.assign import set_assignments
from tasks.fleet.keys import RELEASES, Keyring, keyring
from tasks.fleet.publish import publish
from tasks.fleet.repository import File, Repository, new_root

_LAST = 10_000


def kills_at_every_change(world: World, stride: int = 1) -> Iterator[Count]:
    """A look is killed before each change of a file, or each so-manieth."""
    for name, start, number, is_new in (
        ("first install", world.fresh, 1, True),
        ("update by patch", world.warm, 2, False),
        ("update, whole file over HTTP", world.warm, 2, False),
    ):
        count = Count(f"kill -9 before every change of a file, {name}")
        with serving(world.state(number)) as url:
            for change in range(0, 1000, stride):
                home = world.copy(start, "step")
                point_to(home, url if "HTTP" in name else world.state(number))
                if "HTTP" in name:
                    _without_patch(home, world)

                def act(say: Say, home: Home = home, change: int = change) -> None:
                    before_each_change(lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == change else None)
                    look_and_write(home, say)

                code, said = child(act)
                ids = [line for line in said if " " not in line]
                if code == 0:
                    break
                then = (1, 3) if is_new else (2, 3)
                count.add(judge(home, world, ids, then, new=is_new), change)
        yield count


def kills_at_random(world: World, kills: int, rng: random.Random) -> Count:
    """One device lives through all of them; the next look is never killed, and the next release comes after it."""
    count = Count("kill -9 of an update at random moments", note="trial in a process of its own left out")
    home = world.copy(world.warm, "random")
    point_to(home, world.fleet / "repository")
    whole_s, ids = 0.3, set[str]()
    for number in range(kills):
        wanted = 1 + (number + 1) % 3
        child(partial(_assign, world, wanted))
        began_s = time.monotonic()
        code, said = child(lambda say: look_and_write(home, say), rng.uniform(0.0, 1.1 * whole_s))
        if code == 0:
            whole_s = 0.8 * whole_s + 0.2 * (time.monotonic() - began_s)
        ids |= {line for line in said if " " not in line}

        def act(say: Say, wanted: int = wanted, ids: frozenset[str] = frozenset(ids)) -> None:
            why_not = advises(home, world.signed.values()) or kept(home, ids)
            say(f"judged {why_not or completes(home, world, wanted, world.fleet / 'repository')}")
            with Outbox(home.outbox) as outbox:  # the cloud has them
                outbox.delivered(ids).result()

        count.add(judged(*child(act)), number)
        ids.clear()
    return count


def kills_of_the_command(world: World, kills: int, rng: random.Random) -> Count:
    """``python -m headland_edge update`` as the service starts it, with the real trial."""
    count = Count("kill -9 of the command `headland-edge update` at random moments", note="with the real trial")
    whole_s = 2.0
    for number in range(kills):
        home = world.copy(world.warm, "command")
        point_to(home, world.state(2))
        began_s = time.monotonic()
        process = subprocess.Popen(_update(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.0, 1.1 * whole_s))
            whole_s = time.monotonic() - began_s
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        count.add(judge(home, world), number)
    return count


def power_cuts(world: World, stride: int = 1) -> Iterator[Count]:
    """The device's folder is copied before each change of a file, and a device starts from each copy."""
    for name, start, number, is_new in (("first install", world.fresh, 1, True), ("update", world.warm, 2, False)):
        for drops in (False, True):
            told = "writes not yet flushed dropped" if drops else "everything written is there"
            count = Count(f"power cut before every change of a file, {name}; {told}")
            home, copies = world.copy(start, "cut"), world.root / "copies"
            point_to(home, world.state(number))
            shutil.rmtree(copies, ignore_errors=True)

            def act(say: Say, home: Home = home, copies: Path = copies, drops: bool = drops) -> None:
                unsynced = Unsynced()

                def copy(n: int) -> None:
                    if n % stride == 0 or n == _LAST:
                        paths = unsynced.paths.copy()  # copying is no write of the device's
                        shutil.copytree(home.root, copies / str(n))
                        unsynced.paths = paths
                        if drops:
                            unsynced.drop_in(copies / str(n), home.root)

                before_each_change(copy)
                look(home)
                copy(_LAST)

            copies.mkdir()
            code, _ = child(act)
            if code:
                count.add(f"the look to copy ended with {code}")
            then = (1, 3) if is_new else (2, 3)
            for path in sorted(copies.iterdir(), key=lambda path: int(path.name)):
                count.add(judge(Home(path), world, (), then, new=is_new), path.name)
            yield count


def full_disks(world: World, times: int, rng: random.Random) -> Count:
    """Every write past a random size fails: a look on a full disk, advice on it, then room again."""
    count = Count("disk full during an update (writes fail past a random size)")
    for _ in range(times):
        home = world.copy(world.warm, "full")
        point_to(home, world.state(2))
        most = rng.choice([0, rng.randrange(1, 5000), rng.randrange(5000, 700_000)])

        def act(say: Say, home: Home = home, most: int = most) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            look(home)
            say(f"judged {advises(home, world.signed.values())}")

        count.add(judged(*child(act)) or judge(home, world), most)
    return count


def small_disks(world: World, times: int, rng: random.Random) -> Iterator[Count]:
    """Real small file systems, full but for some bytes, and read-only."""
    full = Count("disk really full (a small file system) during an update")
    read_only = Count("disk read-only during an update")
    for number in range(times):
        with small_disk(world.root / f"disk{number}") as disk:
            if disk is None:
                full.note = read_only.note = "skipped: only root may mount a small disk"
                break
            home = Home(shutil.copytree(world.warm.root, disk / "device"))
            point_to(home, world.state(2))
            room = rng.randrange(0, 900_000)
            ballast = disk / "ballast"
            found = os.statvfs(disk)
            ballast.write_bytes(bytes(max(0, found.f_bavail * found.f_frsize - room)))
            why_not = _looks_and_advises(home, world)
            ballast.unlink()
            full.add(why_not or judge(home, world, then=(2,)), room)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

            def act(say: Say, home: Home = home) -> None:
                look(home)
                say(f"judged {advises(home, world.signed.values())}")

            why_not = judged(*child(act))
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            read_only.add(why_not or judge(home, world, then=(3,)), number)
    yield full
    yield read_only


def flips_on_the_device(world: World, home: Home, times: int, rng: random.Random) -> Iterator[Count]:
    """One flipped bit at a random place of a random file of ``home``, by part of its state."""
    files = [path for path in home.root.rglob("*") if path.is_file() and path.stat().st_size]
    named = [path.relative_to(home.root) for path in files]
    parts = {
        "bundle": [path for path in named if path.name == "bundle.tar"],
        "receipt or slots' state": [path for path in named if path.parts[0] == "slots" and path.suffix == ".json"],
        "metadata, roots, floors": [
            path for path in named if path.parts[0] == "updates" and "downloads" not in path.parts
        ],
        "download or patch under way": [path for path in named if "downloads" in path.parts],
        "journal": [path for path in named if path.name.startswith("journal.db")],
        "outbox": [path for path in named if path.name.startswith("outbox.db")],
        "ring": [path for path in named if path.parts[0] == "ring"],
    }
    for part, candidates in parts.items():
        count = Count(f"a flipped bit on the device: {part}")
        for _ in range(times if candidates else 0):
            broken = world.copy(home, "flipped")
            path = broken.root / rng.choice(sorted(candidates))
            where = flip(path, rng)
            count.add(_uses_everything(broken) or judge(broken, world), f"{path.name} at {where}")
        yield count


def flips_on_the_way(world: World, times: int, rng: random.Random) -> Count:
    """One flipped bit in a random file of the repository: nothing of it is run, and once mended it is taken."""
    count = Count("a flipped bit in what is served: metadata, patch, bundle, assignments")
    served = world.root / "served"
    for _ in range(times):
        shutil.rmtree(served, ignore_errors=True)
        shutil.copytree(world.state(2), served)
        files = [path for path in sorted(served.rglob("*")) if path.is_file() and "media" not in str(path)]
        path = rng.choice(files)
        whole = path.read_bytes()
        flip(path, rng)
        home = world.copy(world.warm, "served")
        point_to(home, served)
        why_not = _looks_and_advises(home, world)
        path.write_bytes(whole)
        count.add(why_not or judge(home, world), path.name)
    return count


def clocks(world: World, stride: int = 1) -> Count:
    """The clock jumps to 1970 or 2100 before each read of it; advice goes on, and updates once it is right."""
    count = Count("clock to 1970 or 2100, from the start or amid an update")
    for wrong_s in (0.0, 4_102_444_800.0 + DAY_S):
        for after in range(0, 4, stride):
            home = world.copy(world.warm, "clock")
            point_to(home, world.state(2))

            def act(say: Say, home: Home = home, wrong_s: float = wrong_s, after: int = after) -> None:
                reads = iter([time.time()] * after)
                look(home, now_s=lambda: next(reads, wrong_s))
                look(home, now_s=lambda: wrong_s)
                say(f"judged {advises(home, world.signed.values())}")

            count.add(judged(*child(act)) or judge(home, world), f"{wrong_s:g} after {after}")
    return count


class _Forged(Repository):
    """A repository signed by whoever holds some keys, whatever its root says."""

    def __init__(self, fleet: Path, name: str, signers: list[Any]) -> None:
        super().__init__(fleet, name)
        self._signers: list[Signer] = signers

    def root(self) -> Metadata[Root]:
        return Metadata(new_root(self.family, self._signers, self._signers, (1, 1), time.time()))


def attacks(world: World) -> Iterator[Count]:
    """Each attack on a fleet of its own; the device must not move, and take the honest release afterwards."""
    for name, (attack, restored) in _ATTACKS.items():
        count = Count(name)
        fleet = world.root / "attacked"
        shutil.rmtree(fleet, ignore_errors=True)
        shutil.copytree(world.fleet, fleet)
        home = world.copy(world.warm, "attacked")
        code, _ = child(partial(_attack, attack, world, fleet))
        point_to(home, fleet / "repository")
        moved = _looks_and_advises(home, world, {world.signed[1]})

        if restored:
            shutil.rmtree(fleet / "repository" / restored)
            shutil.copytree(world.fleet / "repository" / restored, fleet / "repository" / restored)
        honest = partial(_takes_the_next, home, world, fleet)
        count.add(f"the attack itself ended with {code}" if code else moved or judged(*child(honest)))
        yield count
    yield _endless(world)


def _assign(world: World, number: int, say: Say) -> None:
    world.assign(number)


def _attack(attack: Callable[[World, Path], None], world: World, fleet: Path, say: Say) -> None:
    attack(world, fleet)


def _issue_changed(change: Callable[..., None], world: World, fleet: Path, say: Say) -> None:
    _issue(world, fleet, world.bundle(9, change))


def _wish(fleet: Path, sha256: str) -> None:
    """Signed with the online key, whatever the cloud itself would refuse."""
    repository = Repository(fleet, "assignments")
    file = {ASSIGNMENTS: File(encode(Assignments(50, sha256)), {})}
    repository.commit(repository.add_files(file), [_keys(fleet).signer("assignments")])


def _keys(fleet: Path) -> Keyring:
    return keyring(fleet / "keys", {})


def _stolen(*names: str) -> Callable[[World, Path], None]:
    def attack(world: World, fleet: Path) -> None:
        evil = world.bundle(9)
        signers = _keys(fleet).signers(list(names))
        forged = _Forged(fleet, "releases", signers)
        custom = {"counter": world.counter(9), "floor": 0}
        name = bundle_name(sha(evil))
        forged.commit({**forged.targets(), **forged.add_files({name: File(evil, custom)})}, signers)
        _wish(fleet, sha(evil))

    return attack


def _downgrade(world: World, fleet: Path) -> None:
    """An old bundle, signed anew by both release keys under a higher counter."""
    old = world.bundle(0)
    repository = Repository(fleet, "releases")
    added = repository.add_files({bundle_name(sha(old)): File(old, {"counter": world.counter(9), "floor": 0})})
    repository.commit({**repository.targets(), **added}, _keys(fleet).signers(RELEASES))
    _wish(fleet, sha(old))


def _freeze(world: World, fleet: Path) -> None:
    """What was served long ago, still validly signed then, is served again."""
    now_s = time.time() - 400 * DAY_S
    repository = Repository(fleet, "assignments")
    file = {ASSIGNMENTS: File(encode(Assignments(50, world.signed[2])), {})}
    repository.commit(repository.add_files(file), [_keys(fleet).signer("assignments")], now_s)


def _mix(world: World, fleet: Path) -> None:
    """Metadata of different moments side by side."""
    served = fleet / "repository" / "assignments" / "metadata"
    old = world.state(2) / "assignments" / "metadata"
    newest = max(served.glob("*.snapshot.json"), key=lambda path: int(path.name.split(".")[0]))
    older = max(old.glob("*.snapshot.json"), key=lambda path: int(path.name.split(".")[0]))
    newest.write_bytes(older.read_bytes())


def _other_repository(world: World, fleet: Path) -> None:
    """The files of the sticks' repository in place of the network's."""
    served = fleet / "repository"
    shutil.rmtree(served / "assignments" / "metadata")
    shutil.copytree(served / "media-assignments" / "metadata", served / "assignments" / "metadata")


def _hardware(world: World, fleet: Path) -> None:
    other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"

    def change(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        manifest["hardware"]["arch"] = [other]

    _issue(world, fleet, world.bundle(9, change))


def _other_device(world: World, fleet: Path) -> None:
    set_assignments(fleet, _keys(fleet), base=world.signed[1], pins={"field-2": world.signed[2]})


def _issue(world: World, fleet: Path, data: bytes) -> None:
    publish(fleet, world.file(data), _keys(fleet))
    set_assignments(fleet, _keys(fleet), base=sha(data))


_ATTACKS: dict[str, tuple[Callable[[World, Path], None], str]] = {
    "downgrade: an old bundle signed under a new counter": (_downgrade, ""),
    "freeze: metadata of long ago served again": (_freeze, ""),
    "mix-and-match: metadata of different moments": (_mix, "assignments"),
    "metadata of another repository": (_other_repository, "assignments"),
    "wrong hardware": (_hardware, ""),
    "wrong device: a release for another one": (_other_device, ""),
    "stolen key: releases-1": (_stolen("releases-1"), "releases"),
    "stolen key: releases-2": (_stolen("releases-2"), "releases"),
    "stolen key: recovery": (_stolen("recovery"), "releases"),
    "stolen key: assignments": (_stolen("assignments"), "releases"),
}
"""Each with the repository that its owner has to put back afterwards."""


def _endless(world: World) -> Count:
    """A server that never stops sending, for one file after the other."""
    count = Count("endless data in place of a file")
    for ending in (
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "root.json",
        "assignments.json",
        ".hpatch",
        ".tar",
    ):
        home = world.copy(world.warm, "endless")
        with serving(world.state(2), endless=ending) as url:
            point_to(home, url)
            why_not = _looks_and_advises(home, world)
        count.add(why_not or judge(home, world), ending)
    return count


def bad_releases(world: World) -> Iterator[Count]:
    """Releases that pass every check but the trial on the device itself."""

    def wrong(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        name = next(name for name in sorted(members) if name.startswith("golden/") and "outputs" in name)
        data = bytearray(members[name])
        data[-1] ^= 0x08  # the exponent of the last output
        members[name] = bytes(data)

    def slow(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        manifest["budgets"]["latency_p99_ms"] = 1e-3

    def greedy(manifest: dict[str, Any], members: dict[str, bytes]) -> None:
        manifest["budgets"]["peak_rss_mb"] = 1.0

    for name, code, change in (
        ("a model that is wrong on its golden inputs", "golden", wrong),
        ("a model that is slow", "slow", slow),
        ("a model that takes too much memory", "memory", greedy),
    ):
        count = Count(name, note="with the real trial")
        fleet = world.root / "attacked"
        shutil.rmtree(fleet, ignore_errors=True)
        shutil.copytree(world.fleet, fleet)
        child(partial(_issue_changed, change, world, fleet))
        home = world.copy(world.warm, "bad")
        point_to(home, fleet / "repository")

        def act(say: Say, home: Home = home, code: str = code) -> None:
            found = look(home, accept)
            why_not = "" if found.code == code else f"the look ended {found.state}, {found.code}: {found.text}"
            say(f"judged {why_not or advises(home, {world.signed[1]})}")

        count.add(judged(*child(act)) or judged(*child(partial(_takes_the_next, home, world, fleet))))
        yield count


def _takes_the_next(home: Home, world: World, fleet: Path, say: Say) -> None:
    set_assignments(fleet, _keys(fleet), base=world.signed[3])
    say(f"judged {completes(home, world, 3, fleet / 'repository')}")


class _Away:
    """An uplink without a network."""

    def send(self, batch: Any) -> None:
        raise OSError(101, "Network is unreachable")

    def acknowledged(self) -> frozenset[str]:
        return frozenset()


def month_offline(world: World) -> Count:
    """30 days without network: looks and sync fail each day, messages are kept, the outbox stays in its bounds."""
    count = Count("30 days offline")
    home = world.copy(world.warm, "offline")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        point_to(home, f"http://127.0.0.1:{nobody.getsockname()[1]}/")

        def act(say: Say) -> None:
            start_s, most = time.time(), 200_000
            with Outbox(home.outbox, most) as outbox:
                now_s = start_s
                sync = Sync(home, home.settings(), outbox, dict, now_s=lambda: now_s, uplink=_Away())
                for day in range(30):
                    now_s = start_s + day * DAY_S
                    assert look(home, now_s=iter([now_s] * 1000).__next__).state == "offline"
                    for number in range(20):
                        body = {"day": day, "number": number, "filled": "x" * 1000}
                        outbox.put(Message(DEVICE, "record", now_s, body))
                    advice = Message(DEVICE, "advice", now_s, {"day": day})
                    outbox.put(advice).result()
                    say(advice.id)
                    with suppress(OSError):
                        sync.turn()
                found = outbox.counts()
                health = [message for message in outbox.pending() if message.kind == "health"]
            assert found["waiting_bytes"] <= most, found
            assert found["dropped"] > 0, found
            assert len(health) == 1, health

        code, said = child(act)
    count.add(f"ended with {code}" if code else judge(home, world, said))
    return count


def flip(path: Path, rng: random.Random) -> int:
    """Flip one bit of a file; returns where."""
    data = bytearray(path.read_bytes())
    where = rng.randrange(len(data))
    data[where] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return where


def lived_in(world: World, home: Home) -> Home:
    """The device runs release 2, and is half through a download of release 3."""

    def act(say: Say) -> None:
        assert not completes(home, world, 2)
        point_to(home, world.state(3))
        state = Repository(world.fleet, "releases").targets()
        patch = next(t for n, t in state.items() if n.startswith("patches/") and t.custom["to"] == world.signed[3])
        downloads = home.updates / "downloads"
        downloads.mkdir(exist_ok=True)
        (downloads / f"{world.signed[3]}.tar.part").write_bytes(world.bundle(3)[:4000])
        (downloads / f"{patch.hashes['sha256']}.hpatch.part").write_bytes(bytes(300))
        say("judged ")

    why_not = judged(*child(act))
    if why_not:
        raise RuntimeError(why_not)
    return home


def _uses_everything(home: Home) -> str:
    """Open, read and write journal, outbox and ring as the service does."""

    def act(say: Say) -> None:
        with Outbox(home.outbox) as outbox, Journal(home.journal):
            message = Message(DEVICE, "event", time.time(), {"event": "fault"})
            outbox.put(message).result()
            assert message.id in {each.id for each in outbox.pending()}
            sum(1 for _ in read(Ring(home.ring, 4_000_000)))
        say("judged ")

    return judged(*child(act))


def _looks_and_advises(home: Home, world: World, expected: set[str] | None = None) -> str:
    """Look twice in whatever state the device is; then it must advise."""

    def act(say: Say) -> None:
        for _ in range(2):
            look(home)
        say(f"judged {advises(home, expected or set(world.signed.values()))}")

    return judged(*child(act))


def _without_patch(home: Home, world: World) -> None:
    """Have the look fetch the whole file: most of it is there already."""
    part = home.updates / "downloads" / f"{world.signed[2]}.tar.part"
    part.parent.mkdir(exist_ok=True)
    data = world.bundle(2)
    part.write_bytes(data[: len(data) - 100])


def _update(home: Home) -> list[str]:
    return [sys.executable, "-m", "headland_edge", "update", "--home", str(home.root)]


@contextmanager
def serving(folder: Path, endless: str = "none") -> Iterator[str]:
    """Static files on loopback, in a process of its own so that this one stays single-threaded; yields the address."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            _serve(folder, endless, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    port = int(os.read(read_end, 16))
    os.close(read_end)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(folder: Path, endless: str, port_to: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = folder / self.path.lstrip("/")
            if self.path.endswith(endless):
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(bytes(65536))
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:])

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            return  # whoever looks for updates hung up

    server = Quiet(("127.0.0.1", 0), Handler)
    os.write(port_to, str(server.server_port).encode())
    os.close(port_to)
    server.serve_forever()
