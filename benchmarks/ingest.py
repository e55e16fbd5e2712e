"""Ingest: records a second from devices through a real mosquitto with TLS into the store, with the broker killed.

``python -m benchmarks.ingest`` prints JSON and writes ``metrics/bench/ingest.json``. Every record is the largest a
device sends. The clock runs from the first batch sent to the last answer of the cloud heard by its device, kill -9 and
restarts of the broker included. The peer is paho alone, publishing and subscribing the same payloads, without a store
and with a broker that lives.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import describe
from benchmarks.mqtt_load import DEVICES
from tasks.durable import write_json
from tasks.fleet.broker import Address, BrokerFolder, command, init
from tasks.fleet.folder import FleetFolder
from tasks.fleet.live import free_port
from tasks.fleet.store import Store

CASES = {"50_records_a_batch": (50, 50), "1_record_a_batch": (1000, 1)}
"""Batches for each of eight devices, and records in each."""
RESTARTS = 3


@contextmanager
def process(words: list[str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended whatever happens."""
    started = subprocess.Popen(words, text=True, **more)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def load(fleet: Path, mode: str, number: int, size: int) -> Any:
    """The devices, or the peer."""
    words = [sys.executable, "-m", "benchmarks.mqtt_load", str(fleet), mode, str(number), str(size)]
    return process(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def cpu_s(started: subprocess.Popen[Any]) -> float:
    """Seconds of a core that a process has used by now."""
    times = psutil.Process(started.pid).cpu_times()
    return float(times.user + times.system)


class Mosquitto:
    """The broker, to be killed and started again."""

    def __init__(self, folder: BrokerFolder) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.cpu_s = 0.0
        """Used by all its lives."""
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(command(self._folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        login = self._folder.login()
        for _ in range(500):
            with suppress(OSError), socket.create_connection((login.host, login.port), timeout=1):
                return
            time.sleep(0.01)
        raise RuntimeError("mosquitto does not answer")

    def kill(self) -> None:
        if self._process is not None:
            self.cpu_s += cpu_s(self._process)
            self._process.kill()
            self._process.wait()
            self._process = None


def kept(path: Path) -> tuple[int, int]:
    """Records in the store, and different ones by device and number."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
        found: tuple[int, int] = database.execute(
            "SELECT COUNT(*), COUNT(DISTINCT device_id || ' ' || time_s) FROM messages"
        ).fetchone()
        return found


def wait_ready(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    if started.stdout.readline().strip() != "ready":
        raise RuntimeError("the devices did not start")


def go(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()


def told(started: subprocess.Popen[str]) -> dict[str, Any]:
    assert started.stdout is not None
    found: dict[str, Any] = json.loads(started.stdout.readline())
    return found


def with_store(fleet: Path, number: int, size: int, restarts: int) -> dict[str, Any]:
    """Devices, broker, ingest and store, with the broker killed at even steps of the way."""
    wanted = number * size * len(DEVICES)
    broker = Mosquitto(init(fleet, DEVICES, Address(port=free_port())))
    store = FleetFolder(fleet).store
    Store(store).close()
    words = [sys.executable, "-c", "from tasks.cli import main; main()", "fleet", "listen", "--fleet", str(fleet)]
    try:
        with (
            process([*words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ingest,
            load(fleet, "answered", number, size) as devices,
        ):
            wait_ready(devices)
            before_s = {"ingest": cpu_s(ingest), "devices": cpu_s(devices)}
            go(devices)
            for step in range(1, restarts + 1):
                while kept(store)[0] < wanted * step / (restarts + 1):
                    time.sleep(0.02)
                broker.kill()
                broker.start()
            sent = told(devices)
            used_s = {"ingest": cpu_s(ingest), "devices": sent["cpu_s"]}
            ingest.send_signal(signal.SIGTERM)
            ingested = told(ingest)
    finally:
        broker.kill()
    rows, different = kept(store)
    return {
        "records": wanted,
        "records_per_s": round(wanted / sent["seconds"], 1),
        "seconds": round(sent["seconds"], 2),
        "core_seconds": {
            **{name: round(used_s[name] - before_s[name], 2) for name in used_s},
            "broker": round(broker.cpu_s, 2),
        },
        "packed_bytes_per_record": round(sent["bytes"] / wanted, 1),
        "broker_kills": restarts,
        "batches": number * len(DEVICES),
        "batches_sent": sent["batches_sent"],
        "records_that_came_again": ingested["repeated"],
        "lost": wanted - different,
        "doubled": rows - different,
    }


def without_store(fleet: Path, number: int, size: int) -> dict[str, Any]:
    """The peer."""
    broker = Mosquitto(init(fleet, DEVICES, Address(port=free_port())))
    try:
        with load(fleet, "count", number, size) as counter, load(fleet, "plain", number, size) as devices:
            wait_ready(counter)
            wait_ready(devices)
            go(devices)
            sent, came = told(devices), told(counter)
    finally:
        broker.kill()
    seconds = max(sent["seconds"], came["seconds"])
    return {"records_per_s": round(number * size * len(DEVICES) / seconds, 1), "seconds": round(seconds, 2)}


def main() -> int:
    """Measure and print; 1 without mosquitto, or if a record was lost or doubled."""
    if shutil.which("mosquitto") is None:
        print("error: mosquitto is not installed; on Debian: apt-get install mosquitto", file=sys.stderr)
        return 1
    found: dict[str, Any] = {"machine": describe(), "devices": len(DEVICES)}
    for name, (number, size) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            found[name] = {
                "killed": with_store(root / "killed", number, size, RESTARTS),
                "undisturbed": with_store(root / "undisturbed", number, size, 0),
                "peer_paho_without_store": without_store(root / "peer", number, size),
            }
    write_json(Path("metrics/bench/ingest.json"), found)
    print(json.dumps(found, indent=2))
    runs = [case[run] for case in (found[name] for name in CASES) for run in ("killed", "undisturbed")]
    return int(any(run["lost"] or run["doubled"] for run in runs))


if __name__ == "__main__":
    raise SystemExit(main())
