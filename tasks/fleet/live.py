"""Devices that really run: one process each, farming one simulated field each, over files and loopback only.

The simulator plays the field and its sensors; everything else is the device as it ships: it reads its records from its
inbox, advises from the release in its slot, and keeps what it has to say in its outbox.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from headland_edge.home import Home
from headland_edge.records import Records, to_csv

from tasks.crops.interface import BoolArray, Decision, Field, FloatArray

_STOP_S = 20.0
_ASK_EVERY_S = 0.02


class FleetError(Exception):
    """A device that should live doesn't, or doesn't answer; the message names it and its log."""


@dataclass
class LiveDevice:
    """One device process.

    Args:
        home: its folder.
        python: interpreter that has ``headland_edge``.
    """

    home: Home
    python: Path = Path(sys.executable)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    starts: int = 0

    @property
    def device_id(self) -> str:
        """From its settings."""
        return self.home.settings().device_id

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.home.root / "device.log"

    def start(self) -> None:
        """Start it, or start it again."""
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.python), "-m", "headland_edge", "run", "--home", str(self.home.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )

    def kill(self) -> None:
        """As a power cut does, with all it started."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, by force if it does not."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.process is None:
            return
        for each in (number, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, each)
                self.process.wait(_STOP_S)
                break
            except ProcessLookupError:
                self.process.wait()
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def ask(self, path: str) -> Any:
        """Its loopback endpoint's answer; None while it does not answer."""
        port = self.home.settings().local.http_port
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None


class Fleet:
    """Devices that are started together and always ended together."""

    def __init__(self, devices: Sequence[LiveDevice]) -> None:
        self.devices = list(devices)

    def __enter__(self) -> Fleet:
        for device in self.devices:
            device.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for device in self.devices:
            device.stop()

    def revive(self) -> int:
        """Start again whatever died, as its service manager would; returns how many."""
        dead = [device for device in self.devices if not device.alive()]
        for device in dead:
            device.start()
        return len(dead)

    def wait(self, until: Callable[[LiveDevice], object], timeout_s: float, what: str) -> None:
        """Wait until each device fulfils ``until``. Raises FleetError naming those that don't."""
        deadline_s = time.monotonic() + timeout_s
        waiting = list(self.devices)
        while waiting:
            waiting = [device for device in waiting if not until(device)]
            if waiting and time.monotonic() > deadline_s:
                logs = ", ".join(str(device.log) for device in waiting[:3])
                raise FleetError(f"{len(waiting)} devices do not {what} after {timeout_s:g} s; see {logs}")
            if waiting:
                self.revive()
                time.sleep(0.2)


class LiveDevices:
    """The policy of a batch of fields: each asks the device that stands in it."""

    def __init__(self, devices: Sequence[LiveDevice], timeout_s: float = 60.0) -> None:
        """Take one device for each field of the batch, in its order."""
        self._devices, self._timeout_s = list(devices), timeout_s
        self.refused = 0
        self.advised = 0

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Put this morning's records into every inbox, then wait for every device's answer."""
        mornings = {
            int(i): Records(fields[i].crop, fields[i].sowing_date, records[i].copy()) for i in np.flatnonzero(active)
        }
        for i, known in mornings.items():
            _put_csv(self._devices[i], fields[i], known)
        dose = np.zeros(len(fields))
        for i, known in mornings.items():
            said = self._answer(self._devices[i], field_name(fields[i]), known.last_date.isoformat())
            if said.get("refused"):
                self.refused += 1
                continue
            self.advised += 1
            dose[i] = float(said["irrigation_mm"] if fields[i].crop == "maize" else said["nitrogen_kg_ha"])
        nothing = np.zeros(len(fields))
        return Decision(dose, nothing) if fields[0].crop == "maize" else Decision(nothing, dose)

    def _answer(self, device: LiveDevice, name: str, date: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            said = (device.ask("/advice") or {}).get(name)
            if said and said.get("date") == date:
                return dict(said)
            if time.monotonic() > deadline_s:
                raise FleetError(f"{device.device_id}: no answer for {name} on {date}; see {device.log}")
            if not device.alive():
                device.start()
            time.sleep(_ASK_EVERY_S)


@contextmanager
def running(devices: Sequence[LiveDevice]) -> Iterator[Fleet]:
    """All ``devices``, started, and ended whatever happens."""
    with Fleet(devices) as fleet:
        yield fleet


def put_records(device: LiveDevice, field: Field, values: FloatArray) -> None:
    """Put a field's mornings, shape (n_mornings, len(COLUMNS)), into a device's inbox."""
    _put_csv(device, field, Records(field.crop, field.sowing_date, values.copy()))


def _put_csv(device: LiveDevice, field: Field, records: Records) -> None:
    put_file(device.home.inbox / f"{field_name(field)}.csv", to_csv(records).encode())


def field_name(field: Field) -> str:
    """The name by which a device knows a field: letters, digits and hyphens."""
    return field.field_id.lower().replace("_", "-")


def put_file(path: Path, data: bytes) -> None:
    """Put a file where a device looks for it, whole; as for a sensor, nothing waits for the disk."""
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(data)
    aside.replace(path)


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
