"""Mosquitto and the cloud's ingest are killed again and again while devices send: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from headland_edge.messages import Message
from headland_edge.mqtt_uplink import MqttUplink
from headland_edge.outbox import Outbox

from tasks.fleet.store import Store
from tests.fleet.broker import RunningBroker, needs_mosquitto, running_broker
from tests.toy import python_environment

DEVICES = ("field-1", "field-2")
KILLS = 12
LISTEN = [sys.executable, "-c", "from tasks.cli import main; main()", "fleet", "listen", "--fleet"]


class Listener:
    """The cloud's ingest as a process."""

    def __init__(self, fleet: Path) -> None:
        self._fleet = fleet
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._fleet / "listen.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*LISTEN, str(self._fleet)], env=python_environment(), stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def listening(fleet: Path) -> Iterator[Listener]:
    listener = Listener(fleet)
    listener.start()
    try:
        yield listener
    finally:
        listener.kill()


class Device:
    """Puts a message whenever it is asked, and sends what waits, as the service's loop does."""

    def __init__(self, broker: RunningBroker, name: str) -> None:
        self.name, self.put, self.gone = name, set[str](), set[str]()
        self._outbox = Outbox(broker.fleet / f"{name}.db")
        self._uplink: MqttUplink = broker.uplink(name, answer_s=0.2)

    def step(self) -> None:
        message = Message(self.name, "record", float(len(self.put)), {"number": len(self.put)})
        assert self._outbox.put(message).result(30)
        self.put.add(message.id)
        self.sync()

    def sync(self) -> None:
        answered = self._uplink.acknowledged()
        if answered:
            self._outbox.delivered(answered).result(30)
            self.gone |= answered
        with suppress(OSError):
            self._uplink.send(self._outbox.pending(20_000))

    def waiting(self) -> set[str]:
        return {message.id for message in self._outbox.pending()}

    def close(self) -> None:
        self._uplink.close()
        self._outbox.close()


def kept(fleet: Path) -> list[str]:
    with Store(fleet / "store.db") as store:
        return [message.id for message in store.messages("record")]


@needs_mosquitto
@pytest.mark.slow
def test_random_kills_of_broker_and_ingest_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    with running_broker(tmp_path, DEVICES) as broker, listening(tmp_path) as listener:
        devices = [Device(broker, name) for name in DEVICES]
        killed = dict.fromkeys(("broker", "ingest", "both"), 0)
        for _ in range(KILLS):
            what = rng.choice(sorted(killed))
            killed[what] += 1
            before = len(kept(tmp_path))
            for _ in range(rng.randrange(1, 8)):
                for device in devices:
                    device.step()
            if what != "broker":
                listener.kill()
            if what != "ingest":
                broker.kill()
            for device in devices:
                device.step()
                # What has left an outbox lies in the store, whoever was killed.
                assert device.gone <= set(kept(tmp_path))
                assert device.put == device.gone | device.waiting()
            if what != "ingest":
                broker.start()
            if what != "broker":
                listener.start()
            caught_up(tmp_path, devices, before)
        deadline_s = time.monotonic() + 120
        while any(device.waiting() for device in devices):
            assert time.monotonic() < deadline_s, (tmp_path / "listen.log").read_text()
            for device in devices:
                device.sync()
        for device in devices:
            device.close()
    assert min(killed.values()) > 0
    found = kept(tmp_path)
    assert len(found) == len(set(found))
    assert set(found) == set.union(*(device.put for device in devices))
    assert len(found) > 2 * KILLS


def caught_up(fleet: Path, devices: list[Device], before: int) -> None:
    """Wait until messages arrive again, so that the next kill meets work and not a start."""
    deadline_s = time.monotonic() + 60
    while len(kept(fleet)) <= before:
        assert time.monotonic() < deadline_s, (fleet / "listen.log").read_text()
        for device in devices:
            device.sync()
