"""Faults of the running service and of the publisher, killed as real processes. See ``benchmarks/faults.py``."""

from __future__ import annotations

import json
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from headland_edge.durable import write_bytes
from headland_edge.home import Home, to_toml
from headland_edge.journal import latest
from headland_edge.messages import decode
from headland_edge.records import to_csv
from headland_edge.uplink import unpack, write_ack

from benchmarks.fault_world import (
    Count,
    Say,
    World,
    child,
    completes,
    judge,
    judged,
    look,
    point_to,
    season,
    small_disk,
)
from tasks.fleet.keys import keyring

_PATIENCE_S = 60.0
_CRASHES = """
import os
from headland_edge.advisor import Advisor
advise = Advisor.advise
def crash(self, records, *more):
    if self._bundle.sha256 == {sha256!r} and records.n_mornings == 10:
        os.abort()
    return advise(self, records, *more)
Advisor.advise = crash
"""
_CLOCK = "import time\ntime.time = lambda: {now_s}"


class SilentError(RuntimeError):
    """The service did not do in time what it should."""


@dataclass
class Served:
    """A service that runs."""

    home: Home
    process: subprocess.Popen[bytes]

    def ask(self, path: str) -> Any:
        """What it answers; None if it does not."""
        port = self.home.settings().local.http_port
        with suppress(OSError, ValueError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as said:
            return json.loads(said.read())
        return None

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        """The first answer of ``until`` that is one. Raises SilentError."""
        until_s = time.monotonic() + _PATIENCE_S
        while not (found := until()):
            if time.monotonic() > until_s:
                raise SilentError(f"{what}: not within {_PATIENCE_S:g} s")
            time.sleep(0.02)
        return found

    def ended_or_said(self) -> Any:
        """True once the process has ended, or else its answer for the field."""
        return self.process.poll() is not None or (self.ask("/advice") or {}).get("north")

    def advice(self, mornings: int) -> dict[str, Any]:
        """The answer for the season's so-manieth morning. Raises SilentError."""
        day = season(mornings).last_date.isoformat()

        def found() -> Any:
            said = (self.ask("/advice") or {}).get("north")
            return said if said and said.get("date") == day and "refused" not in said else None

        answer: dict[str, Any] = self.wait(found, f"advice for {day}")
        return answer


@contextmanager
def served(home: Home, prelude: str = "") -> Iterator[Served]:
    """The service of a device as a process, killed at the end; ``prelude`` is Python run before, in it."""
    run = f"from headland_edge.cli import main; raise SystemExit(main(['run', '--home', {str(home.root)!r}]))"
    words = ["-c", f"{prelude}\n{run}"] if prelude else ["-m", "headland_edge", "run", "--home", str(home.root)]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Served(home, process)
    finally:
        process.kill()
        process.wait()


def give_port(home: Home) -> Home:
    """Have the device serve on a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = home.settings()
        local = replace(settings.local, http_port=free.getsockname()[1])
    home.settings_file.write_text(to_toml(replace(settings, local=local)))
    return home


def sow(home: Home, mornings: int) -> None:
    """Records as the sensors' gateway leaves them."""
    write_bytes(home.inbox / "north.csv", to_csv(season(mornings)).encode())


class Cloud:
    """Takes batches from the folder of a device, keeps what they say, and writes receipts."""

    def __init__(self, home: Home) -> None:
        self._folder, self.has = home.root, set[str]()

    def turn(self) -> None:
        """Everything that lies there."""
        for path in (self._folder / "outgoing").glob("*.zst"):
            with suppress(FileNotFoundError):
                ids = [decode(line).id for line in unpack(path.name, path.read_bytes())]
                self.has |= set(ids)
                write_ack(self._folder, path.name, ids)


def in_outbox(home: Home) -> dict[str, str]:
    """Kind of every message that lies in the outbox for good, by id."""
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{home.outbox}?mode=ro", uri=True)
        try:
            lines = connection.execute("SELECT line FROM messages").fetchall()
            return {message.id: message.kind for message in (decode(bytes(line)) for (line,) in lines)}
        finally:
            connection.close()
    return {}


def kills_of_the_service(world: World, kills: int, rng: random.Random) -> Count:
    """One device and its cloud live through all of them, a new morning each time."""
    count = Count(
        "kill -9 of the service at random moments, records arriving, receipts coming",
        note="every message seen in the outbox is there or with the cloud; every advice served is in the journal",
    )
    home = give_port(world.copy(world.warm, "served"))
    cloud, kept, whole_s = Cloud(home), set[str](), 1.5
    for number in range(kills):
        mornings = 11 + number % 100
        sow(home, mornings)
        answered: set[str] = set()
        with served(home) as device:
            until_s = time.monotonic() + rng.uniform(0.0, 1.3 * whole_s)
            while time.monotonic() < until_s:
                answered |= {
                    said["advice_id"] for said in (device.ask("/advice") or {}).values() if "advice_id" in said
                }
                # Health gives way to newer health, by design.
                kept |= {each for each, kind in in_outbox(home).items() if kind != "health"}
                cloud.turn()
                time.sleep(0.01)
        why_not = ""
        try:
            with served(home) as device:
                began_s = time.monotonic()
                answered.add(device.advice(mornings)["advice_id"])
                whole_s = 0.7 * whole_s + 0.3 * (time.monotonic() - began_s)

                def journal(answered: set[str] = answered) -> bool:
                    return answered <= {each["advice_id"] for each in latest(home.journal, 1000)}

                device.wait(journal, "the journal has all that was served")
            lost = kept - cloud.has - set(in_outbox(home))
            why_not = f"{len(lost)} messages lost" if lost else ""
        except SilentError as error:
            why_not = str(error)
        if not why_not and number % 10 == 9:
            why_not = _next(home, world, 2 + (number // 10) % 2)
        count.add(why_not, number)
    return count


def crashes_on_the_tenth(world: World) -> Count:
    """A release on trial whose tenth morning takes the process down."""
    count = Count("a model that crashes the process on the tenth record")
    home = give_port(world.copy(world.warm, "crashes"))
    code, _ = child(lambda say: _installed(home, world))
    sow(home, 10)
    why_not, starts = "" if code == 0 else "the release could not be installed", 0
    while not why_not:
        starts += 1
        with served(home, _CRASHES.format(sha256=world.signed[2])) as device:
            ended = device.wait(device.ended_or_said, "an answer or a crash")
            if ended is not True:
                right = ended.get("bundle_sha256") == world.signed[1]
                why_not = "" if right else f"not the release before advises: {ended}"
                break
        if starts > 6:
            why_not = f"still crashes after {starts} starts"
    count.add(why_not or judge(home, world, then=(3,)))
    return count


def service_at_wrong_clocks(world: World) -> Count:
    """The service starts with the clock at 1970, and at 2100."""
    count = Count("the service starts with the clock at 1970, at 2100")
    for now_s in (5.0, 4_102_444_800.0 + 86_400):
        home = give_port(world.copy(world.warm, "clock"))
        sow(home, 41)
        count.add(_serves(home, _CLOCK.format(now_s=now_s)) or judge(home, world), now_s)
    return count


def service_without_a_disk(world: World) -> Count:
    """The service starts on a full and on a read-only disk, and advises."""
    count = Count("the service starts on a disk that is full, read-only")
    with small_disk(world.root / "disk") as disk:
        if disk is None:
            count.note = "skipped: only root may mount a small disk"
            return count
        home = give_port(Home(shutil.copytree(world.warm.root, disk / "device")))
        sow(home, 41)
        with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        why_not = _serves(home)
        (disk / "ballast").unlink()
        count.add(why_not or judge(home, world, then=(2,)), "full")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        why_not = _serves(home)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        count.add(why_not or judge(home, world, then=(3,)), "read-only")
    return count


def kills_of_the_publisher(world: World, kills: int, commands: int, rng: random.Random) -> Iterator[Count]:
    """After each kill devices find whole metadata, and publishing again completes it."""
    for name, times in (("as a forked process", kills), ("`headland fleet publish`", commands)):
        count = Count(f"kill -9 of the publisher at random moments, {name}")
        fleet = world.root / "published"
        whole_s = 0.5 if times == kills else 4.0
        for number in range(times):
            shutil.rmtree(fleet, ignore_errors=True)
            shutil.copytree(world.fleet, fleet)
            world_now = _on(world, fleet)
            data = world.bundle(4)
            began_s = time.monotonic()
            if name == "as a forked process":
                code, _ = child(partial(_publish, world_now, data), rng.uniform(0, 1.1 * whole_s))
                ended = code == 0
            else:
                words = ["fleet", "publish", "--bundle", str(world.file(data)), "--fleet", str(fleet)]
                process = subprocess.Popen(
                    [sys.executable, "-m", "tasks.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                try:
                    ended = process.wait(rng.uniform(0.5, 1.1 * whole_s)) == 0
                except subprocess.TimeoutExpired:
                    ended = False
                process.kill()
                process.wait()
            if ended:
                whole_s = time.monotonic() - began_s
            home = world.copy(world.warm, "reader")

            def act(say: Say, world_now: World = world_now, data: bytes = data, home: Home = home) -> None:
                where = world_now.fleet / "repository"
                why_not = completes(home, world_now, 3, where)
                world_now.publish(4, data)
                world_now.assign(4)
                say(f"judged {why_not or completes(home, world_now, 4, where)}")

            count.add(judged(*child(act)), number)
        yield count


def _publish(world: World, data: bytes, say: Say) -> None:
    world.publish(4, data)


def _stands(home: Home, advice_id: str) -> bool:
    return advice_id in {each["advice_id"] for each in latest(home.journal, 9)}


def _on(world: World, fleet: Path) -> World:
    """The same world with another folder of the fleet."""
    other = copy(world)
    other.fleet, other.keys, other.signed = fleet, keyring(fleet / "keys", {}), dict(world.signed)
    return other


def _installed(home: Home, world: World) -> None:
    point_to(home, world.state(2))
    assert look(home).state == "installed"


def _serves(home: Home, prelude: str = "") -> str:
    try:
        with served(home, prelude) as device:
            device.advice(41)
    except SilentError as error:
        return str(error)
    return ""


def _next(home: Home, world: World, number: int) -> str:
    return judged(*child(lambda say: say(f"judged {completes(home, world, number)}")))


def worked(world: World) -> Home:
    """A device whose service has answered, so that journal, outbox and ring hold something."""
    home = give_port(world.copy(world.warm, "worked"))
    with served(home) as device:
        for mornings in (39, 40, 41):
            sow(home, mornings)
            said = device.advice(mornings)["advice_id"]
            device.wait(partial(_stands, home, said), "journal")
        device.process.terminate()
        device.process.wait(_PATIENCE_S)
    return home
