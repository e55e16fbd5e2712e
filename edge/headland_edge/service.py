"""The device's service: one long process that answers whenever records arrive, with network or without.

    the inbox, a poll a second ──► advice ──► HTTP, MQTT (``Board``) ──► journal, outbox, ring (threads of their own)
    the slots' pointer         ──► another release: end in order and start anew
    every ``updates.every_s``  ──► a look for an update, in a child process
    every ``uplink.every_s``   ──► receipts, health, sending (``Sync``)

It keeps nothing that it could not lose: after a kill at any moment everything in the inbox is answered again, and
messages are known by what they say. No clock is asked for advice. The heavy parts of updates (tuf, cryptography) are
never loaded here.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from headland_edge.advising import Advising
from headland_edge.board import Board
from headland_edge.field_watch import FieldWatch, parse_harvest
from headland_edge.home import Home
from headland_edge.inbox import Arrival, Inbox
from headland_edge.journal import Journal
from headland_edge.local_http import LocalHttp
from headland_edge.local_mqtt import LocalMqtt
from headland_edge.looks import Looks
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.raw_records import RawRecords
from headland_edge.records import Records, parse_csv
from headland_edge.release import Release
from headland_edge.ring import Ring
from headland_edge.slots import clear_leftovers, slots_locked
from headland_edge.sync import Sync, clock_s
from headland_edge.update import last_outcome

SETTLED_S = 300.0
"""A start that lasted so long was not the death of the process."""
_PORT_AGAIN_S = 5.0
_M_ARENA_MAX = -8
_SWITCH_S = 0.0001


class Service:
    """The service of one device.

    Args:
        home: its folder.
        now_s: the system clock, right or wrong; of no consequence for advice.

    Raises:
        SettingsError: the settings cannot be used.
        OSError: the folder cannot be used at all.
    """

    def __init__(self, home: Home, now_s: Callable[[], float] = time.time) -> None:
        self._home, self._now_s = home, now_s
        self._settings = home.settings()
        self._stopping = self._again = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._outbox = Outbox(home.outbox)
        self._journal = Journal(home.journal)
        uplink = self._settings.uplink
        self._raw = RawRecords(Ring(home.ring, uplink.ring_bytes, keep=uplink.keep_raw))
        self._arrived_records: list[tuple[str, Records]] = []
        self._board = Board()
        self._inbox = Inbox(home.inbox, home.rejected)
        self._release = Release(home, self._settings.crop, self._tell)
        self._advising = Advising(self._settings, self._release, self._board, self._journal, self._outbox, now_s)
        self._watch = FieldWatch(home, self._settings, self._outbox)
        self._sync = Sync(home, self._settings, self._outbox, self._health, now_s=now_s)
        self._looks = Looks(home, self._settings)
        self._update = _found(last_outcome(home))
        self._http: LocalHttp | None = None
        self._http_next_s = 0.0
        self._mqtt: LocalMqtt | None = None
        self._settle_s = time.monotonic() + SETTLED_S

    def run(self) -> bool:
        """Serve until SIGTERM, or until another release is to be started; returns whether to start anew."""
        # Writers only pack and commit; the adviser must not wait for them to give up the interpreter.
        sys.setswitchinterval(_SWITCH_S)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, lambda *_: self._looks.soon())
        try:
            self._start()
            while not (self._stopping or self._again):
                self._turn()
                self._wait()
        finally:
            self._end()
        return self._again and not self._stopping

    def _start(self) -> None:
        for damaged in (self._outbox.set_aside, self._journal.set_aside):
            if damaged is not None:
                self._tell("damaged", f"{damaged.name} could not be read and was put aside; a new one begins")
        with suppress(OSError), slots_locked(self._home):
            clear_leftovers(self._home.slots)
        self._release.start()
        self._serve()
        local = self._settings.local
        if local.mqtt_host:
            device_id = self._settings.device_id
            self._mqtt = LocalMqtt(local.mqtt_host, local.mqtt_port, device_id, self._board, self._arrived)
        self._turn()
        self._sync.start()
        notify("READY=1")

    def _turn(self) -> None:
        """Everything that is due."""
        ran = self._release.loaded
        for arrival in self._inbox.changed():
            self._take(arrival)
        self._keep()
        if self._release.loaded is not ran:
            self._inbox.again()
        for rejection in self._inbox.rejections:
            self._tell("rejected_input", f"{rejection.name[:80]!r}: {rejection.reason[:200]}")
        self._inbox.rejections.clear()
        outcome = self._looks.turn()
        if outcome is not None:
            self._take_outcome(outcome)
        if not self._looks.busy and self._release.moved():
            self._again = True
        if time.monotonic() >= self._settle_s:
            self._settle_s = float("inf")
            self._release.settle()
        if self._http is None:
            self._serve()
        notify("WATCHDOG=1")

    def _take(self, arrival: Arrival) -> None:
        try:
            if arrival.kind == "harvest":
                self._take_harvest(arrival)
            else:
                self._take_records(arrival)
        except (ValueError, OverflowError) as error:
            self._inbox.doubt(arrival, str(error))

    def _take_records(self, arrival: Arrival) -> None:
        records = parse_csv(arrival.data.decode("utf-8-sig"), arrival.name)
        self._advising.answer(arrival.field, records)
        self._arrived_records.append((arrival.field, records))

    def _keep(self) -> None:
        """All that can wait until everything is answered."""
        self._advising.keep()
        for field, records in self._arrived_records:
            self._raw.put(field, records)
            self._watch.see(field, records, self._release.loaded)
        self._arrived_records.clear()
        self._watch.end_seasons(self._release.loaded)

    def _take_harvest(self, arrival: Arrival) -> None:
        crop, sowing_date, yield_t_ha = parse_harvest(arrival.data, arrival.name)
        self._watch.weigh(arrival.field, crop, sowing_date, yield_t_ha)

    def _take_outcome(self, outcome: dict[str, Any]) -> None:
        found = _found(outcome)
        if outcome.get("state") == "refused":
            self._release.refused(outcome)
        if found != self._update:
            self._update = found
            self._sync.soon()

    def _arrived(self, field: str, data: bytes) -> None:
        """Records came over MQTT."""
        self._inbox.put(field, data)
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"m")

    def _health(self) -> dict[str, Any]:
        return {
            **self._release.health(),
            "update": self._update,
            "advised": self._board.advised,
            "refused": self._board.refused,
        }

    def _tell(self, event: str, text: str, **more: Any) -> None:
        """An event, to the cloud and to the machine's own journal."""
        print(f"{event}: {text}", file=sys.stderr, flush=True)
        body = {"event": event, "text": text[:500], **more}
        self._outbox.put(Message(self._settings.device_id, "event", clock_s(self._now_s()), body))
        self._sync.soon()

    def _serve(self) -> None:
        """The loopback endpoint; a port that is taken is tried again, and advice goes on without."""
        port = self._settings.local.http_port
        if not port or time.monotonic() < self._http_next_s:
            return
        answers: dict[str, Callable[[], Any]] = {
            "/advice": self._board.all,
            "/health": lambda: {**self._sync.body(), "device_id": self._settings.device_id},
        }
        try:
            self._http = LocalHttp(port, answers)
        except OSError as error:
            self._http_next_s = time.monotonic() + _PORT_AGAIN_S
            print(f"http: port {port}: {error.strerror}", file=sys.stderr, flush=True)

    def _wait(self) -> None:
        if not (self._stopping or self._again):
            ready, _, _ = select.select([self._wake_read], [], [], self._settings.local.poll_s)
            if ready:
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 1024)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _end(self) -> None:
        """In order: nothing new comes in, what was said is written, the rest can be cut off."""
        notify("STOPPING=1")
        if self._http is not None:
            self._http.close()
        if self._mqtt is not None:
            self._mqtt.close()
        self._looks.close()
        if self._stopping:
            self._release.settle()
        self._sync.close()
        self._raw.close()
        self._journal.close()
        self._outbox.close()
        signal.set_wakeup_fd(-1)
        os.close(self._wake_read)
        os.close(self._wake_write)


def _found(outcome: dict[str, Any] | None) -> dict[str, str] | None:
    """A look's outcome as a health message tells it."""
    return None if outcome is None else {key: str(outcome.get(key, "")) for key in ("state", "code", "text")}


def notify(text: str) -> None:
    """Tell the service manager (systemd's ``sd_notify``); nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def one_heap() -> None:
    """Have all threads share one heap: glibc's habit of one for each costs a small process several megabytes."""
    import ctypes

    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def serve(root: Path) -> int:
    """Run the service in this process until it ends; starts the process anew for another release."""
    one_heap()
    if Service(Home(root)).run():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return 0
