"""A real mosquitto with TLS on loopback, that tests can end and start again."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from headland_edge.home import UplinkSettings
from headland_edge.mqtt_uplink import MqttUplink

from tasks.fleet.broker import Address, BrokerFolder, command, init
from tasks.fleet.live import free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None, reason="mosquitto is not installed; on Debian: apt-get install mosquitto"
)
_START_S = 20.0


@dataclass
class RunningBroker:
    """One broker process.

    Args:
        fleet: the fleet's folder.
        folder: the broker's below it.
    """

    fleet: Path
    folder: BrokerFolder
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> Address:
        found = self.folder.address()
        assert found is not None
        return found

    @property
    def log(self) -> Path:
        return self.fleet / "mosquitto.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command(self.folder), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline_s = time.monotonic() + _START_S
        while True:
            with suppress(OSError), socket.create_connection((self.address.bind, self.address.port), timeout=1):
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def settings(self, device_id: str, **more: object) -> UplinkSettings:
        login = self.folder.login(device_id)
        plain = {
            "kind": "mqtt",
            "host": login.host,
            "port": login.port,
            "ca_file": str(login.ca_file),
            "password_file": str(login.password_file),
        }
        return UplinkSettings(**{**plain, **more})  # type: ignore[arg-type]  # each is of its field's type

    def uplink(self, device_id: str, *, answer_s: float = 20.0) -> MqttUplink:
        return MqttUplink(self.settings(device_id), device_id, answer_s=answer_s)


@contextmanager
def running_broker(fleet: Path, devices: Sequence[str]) -> Iterator[RunningBroker]:
    """A broker of its own for a fleet, on a free port; ended whatever happens."""
    broker = RunningBroker(fleet, init(fleet, devices, Address(port=free_port())))
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
