"""Out to the cloud and back: health, receipts, and what the day's bytes allow to be sent, by a thread of its own.

1. Receipts are read: what the cloud has for good leaves the outbox, and only then the receipts go.
2. Health is put into the outbox. One that still waits is replaced, so that weeks offline don't fill it.
3. What waits is sent, the most important first, in small batches and within ``uplink.daily_bytes``. What is on its way
   is not sent again until ``RESEND_S`` have passed without a receipt.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from headland_edge.budget import Budget
from headland_edge.database import NotKeptError
from headland_edge.home import Home, Settings, SettingsError
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.uplink import FolderUplink, Uplink, UplinkError, pack

RESEND_S = {"folder": 86_400.0, "mqtt": 3600.0}
HEALTH_EVERY = 6
"""Turns after which health is said again though nothing has changed."""
_BATCH_BYTES = 66 * 1024  # a little more than the largest message
_BATCHES = 64
_DISK_S = 30.0
_LAST_S = 4_102_444_800.0


class _Health(Protocol):
    def __call__(self) -> dict[str, Any]: ...


class Sync:
    """The uplink of one device.

    Args:
        home: its folder.
        settings: of it.
        outbox: what has to be sent.
        health: body of a health message, without the outbox's part.
        now_s: the system clock, right or wrong.
        uplink: instead of the one in the settings.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        outbox: Outbox,
        health: _Health,
        *,
        now_s: Callable[[], float] = time.time,
        uplink: Uplink | None = None,
    ) -> None:
        self._home, self._settings, self._outbox, self._health, self._now_s = home, settings, outbox, health, now_s
        self._uplink = uplink
        self._budget = Budget(home.root / "uplink-budget.json", settings.uplink.daily_bytes, now_s)
        self._sent_s: dict[str, float] = {}
        self._said: dict[str, Any] = {}
        self._turns_since = 0
        self._counts = {"waiting": 0, "waiting_bytes": 0, "dropped": 0}
        self._wake, self._closing = threading.Event(), False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take turns every ``uplink.every_s`` from now on."""
        self._thread = threading.Thread(target=self._turns, name="sync", daemon=True)
        self._thread.start()

    def soon(self) -> None:
        """Take a turn now: something happened that the cloud should know."""
        self._wake.set()

    def close(self, wait_s: float = 10.0) -> None:
        """End; what is being sent may be cut off, it is sent again."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(wait_s)

    def body(self) -> dict[str, Any]:
        """Body of a health message."""
        try:
            self._counts = self._outbox.counts()
        except sqlite3.Error as error:
            print(f"outbox: {error}", file=sys.stderr, flush=True)
        return {**self._health(), "outbox": self._counts}

    def turn(self) -> int:
        """Receipts, health, sending; returns how many messages were put on their way. Raises OSError, UplinkError."""
        uplink = self._opened()
        if uplink is not None:
            self._take_receipts(uplink)
        self._put_health()
        return self._send(uplink) if uplink is not None else 0

    def _turns(self) -> None:
        while not self._closing:
            self._wake.clear()
            try:
                self.turn()
            except (OSError, UplinkError, NotKeptError, SettingsError, sqlite3.Error) as error:
                print(f"uplink: {error}", file=sys.stderr, flush=True)
            self._wake.wait(self._settings.uplink.every_s)

    def _opened(self) -> Uplink | None:
        if self._uplink is None:
            self._uplink = open_uplink(self._home, self._settings)
        return self._uplink

    def _take_receipts(self, uplink: Uplink) -> None:
        ids = uplink.acknowledged()
        if ids:
            self._outbox.delivered(ids).result(_DISK_S)
            for each in ids:
                self._sent_s.pop(each, None)
        if isinstance(uplink, FolderUplink):
            uplink.forget()

    def _put_health(self) -> None:
        body = self.body()
        self._turns_since += 1
        if body != self._said or self._turns_since >= HEALTH_EVERY:
            message = Message(self._settings.device_id, "health", clock_s(self._now_s()), body)
            kept: Future[bool] = self._outbox.put(message, latest_only=True)
            kept.result(_DISK_S)
            self._said, self._turns_since = body, 0

    def _send(self, uplink: Uplink) -> int:
        now_s = time.monotonic()
        resend_s = RESEND_S[self._settings.uplink.kind]
        self._sent_s = {each: sent_s for each, sent_s in self._sent_s.items() if now_s - sent_s < resend_s}
        under_way = self._sent_s.keys() | (uplink.under_way() if isinstance(uplink, FolderUplink) else set())
        count = 0
        for _ in range(_BATCHES):
            batch, size = self._batch(under_way)
            if not batch or self._closing:
                break
            self._budget.book(size)
            try:
                uplink.send(batch)
            except OSError:
                self._budget.book(-size)
                raise
            ids = {message.id for message in batch}
            self._sent_s |= dict.fromkeys(ids, now_s)
            under_way |= ids
            count += len(batch)
        return count

    def _batch(self, under_way: set[str]) -> tuple[list[Message], int]:
        """As much as fits into a batch and into what is left of the day, and its size on the way."""
        left = self._budget.left
        batch = self._outbox.pending(_BATCH_BYTES, without=under_way) if left else []
        while batch:
            size = len(pack(batch, self._settings.device_id)[1])
            if size <= left:
                return batch, size
            batch = batch[: len(batch) // 2]
        return [], 0


def open_uplink(home: Home, settings: Settings) -> Uplink | None:
    """The uplink in the settings; None for none. Raises SettingsError."""
    uplink = settings.uplink
    if uplink.kind == "mqtt":
        from headland_edge.mqtt_uplink import MqttUplink

        return MqttUplink(uplink, settings.device_id, folder=home.root)
    if uplink.kind == "folder":
        return FolderUplink(home.root / Path(uplink.folder), settings.device_id)
    return None


def clock_s(now_s: float) -> float:
    """A clock's time in the bounds of a message, whatever the clock says."""
    return min(max(now_s, 0.0), _LAST_S) if now_s == now_s else 0.0
