"""Devices of the ingest benchmark, as one process: real sessions, batches packed before the clock starts.

``python -m benchmarks.mqtt_load FLEET MODE BATCHES SIZE`` prints ``ready``, waits for a line, sends, and prints JSON.
``answered`` ends when the cloud has answered every batch; what is unanswered is sent again after a lost connection or
after some seconds, as a device does. ``plain`` and ``count`` are the peer: paho alone, its own threads, no store.
"""

from __future__ import annotations

import json
import random
import ssl
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from headland_edge.messages import Message
from headland_edge.mqtt_session import ACK, UP, Session, topic_of
from headland_edge.records import COLUMNS
from headland_edge.uplink import pack
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tasks.fleet.broker import CLOUD, broker_of

DEVICES = tuple(f"bench-{number}" for number in range(8))
MORNINGS = 35
_RECORDS_IN_FLIGHT = 100
_RESEND_S = 30.0


def record(device: str, number: int, rng: random.Random) -> Message:
    """The largest record a device sends: all columns of 35 mornings, in the resolution of sensors."""
    columns = {name: [round(rng.uniform(0.0, 30.0), 2) for _ in range(MORNINGS)] for name in COLUMNS}
    body = {
        "field": "north",
        "crop": "maize",
        "sowing_date": "2018-05-01",
        "first_day": number % 100,
        "columns": columns,
        "why": ["random"],
        "score": round(rng.random(), 3),
        "harvest_t_ha": None,
    }
    return Message(device, "record", float(number), body)


def batches(device: str, count: int, size: int) -> dict[str, bytes]:
    """Packed batches by name; the same every time."""
    rng = random.Random(device)
    return dict(pack([record(device, n * size + k, rng) for k in range(size)], device) for n in range(count))


class Device:
    """One device's session and what it still has to send."""

    def __init__(self, fleet: Path, name: str, waiting: dict[str, bytes], at_once: int) -> None:
        self.name, self.waiting, self.sent, self._at_once = name, waiting, 0, at_once
        self._session = Session(broker_of(fleet).login(name), topic_of(ACK, name, "+"), timeout_s=5.0)
        self._ahead: deque[str] = deque()
        self._under_way: dict[str, float] = {}
        self._numbers: dict[int, str] = {}
        self._retry_s = 0.0

    def step(self) -> None:
        """Send as much as may be under way, and hear what was answered."""
        now_s = time.monotonic()
        if now_s < self._retry_s:
            return
        try:
            if not self._session.is_open:
                self._session.open()
                self._ahead, self._under_way, self._numbers = deque(self.waiting), {}, {}
            if self._under_way and now_s - next(iter(self._under_way.values())) > _RESEND_S:
                late = next(iter(self._under_way))
                del self._under_way[late]
                self._ahead.append(late)
            while self._ahead and len(self._under_way) < self._at_once:
                name = self._ahead.popleft()
                if name in self.waiting:
                    number = self._session.publish(topic_of(UP, self.name, name), self.waiting[name])
                    self._numbers[number] = name
                    self._under_way[name] = now_s
                    self.sent += 1
            self._session.turn(0.001)
        except OSError:
            self._retry_s = now_s + 0.2
        for number, complaint in self._session.published().items():
            name = self._numbers.pop(number, "")
            if complaint is not None:  # the broker is back before the cloud is
                self._under_way.pop(name, None)
                self._ahead.append(name)
                self._retry_s = now_s + 0.2
        while self._session.arrived:
            name = self._session.arrived.popleft().topic.rpartition("/")[2]
            self.waiting.pop(name, None)
            self._under_way.pop(name, None)


def answered(fleet: Path, loads: dict[str, dict[str, bytes]], size: int) -> dict[str, Any]:
    """Send until the cloud has answered all."""
    devices = [Device(fleet, name, load, _RECORDS_IN_FLIGHT // size) for name, load in loads.items()]
    start_s = time.perf_counter()
    while waiting := [device for device in devices if device.waiting]:
        for device in waiting:
            device.step()
    return {"seconds": time.perf_counter() - start_s, "batches_sent": sum(device.sent for device in devices)}


def plain_client(fleet: Path, name: str) -> Client:
    """Paho as its manual shows it."""
    login = broker_of(fleet).login(name)
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set_context(ssl.create_default_context(cafile=str(login.ca_file)))
    client.username_pw_set(name, login.password_file.read_text().strip())
    client.connect(login.host, login.port)
    return client


def plain(fleet: Path, loads: dict[str, dict[str, bytes]]) -> dict[str, Any]:
    """Publish until the broker has received all."""
    clients = {name: plain_client(fleet, name) for name in loads}
    start_s = time.perf_counter()
    for client in clients.values():
        client.loop_start()
    told = [
        clients[device].publish(topic_of(UP, device, name), data, qos=1)
        for device, load in loads.items()
        for name, data in load.items()
    ]
    for each in told:
        each.wait_for_publish()
    for client in clients.values():
        client.disconnect()
        client.loop_stop()
    return {"seconds": time.perf_counter() - start_s, "batches_sent": len(told)}


def count(fleet: Path, wanted: int) -> dict[str, Any]:
    """Subscribe, and count until all have come."""
    client, came = plain_client(fleet, CLOUD), [0.0]

    def on_message(client: Client, *_: Any) -> None:
        came.append(time.perf_counter())
        if len(came) > wanted:
            client.disconnect()

    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe(f"{UP}/+/+", qos=1)
    client.loop_forever()
    return {"seconds": came[-1] - came[1], "came": len(came) - 1}


def main() -> int:
    fleet, mode, number, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if mode == "count":
        print(json.dumps(count(fleet, number * len(DEVICES))), flush=True)
        return 0
    loads = {device: batches(device, number, size) for device in DEVICES}
    packed = sum(len(data) for load in loads.values() for data in load.values())
    print("ready", flush=True)
    sys.stdin.readline()
    done = plain(fleet, loads) if mode == "plain" else answered(fleet, loads, size)
    print(json.dumps({**done, "bytes": packed, "cpu_s": time.process_time()}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
