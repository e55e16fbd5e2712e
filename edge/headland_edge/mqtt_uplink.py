"""The way out over MQTT: batches to a broker, and the cloud's answers from it.

The broker's own receipt only says that a batch is under way. A message leaves the outbox when the cloud has answered
that it lies in its store; the broker keeps that answer for a device that is offline. Should either be lost, whoever
holds the outbox sends the message again, and the cloud keeps it once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from headland_edge.home import SettingsError, UplinkSettings
from headland_edge.messages import Message
from headland_edge.mqtt_session import ACK, UP, Broker, Session, parse_topic, topic_of
from headland_edge.uplink import UplinkError, ids_of, pack

_ANSWERS_KEPT = 100_000


class MqttUplink:
    """Batches over MQTT 5 and TLS; close it, or use it as a context manager.

    It connects when it is first used and stays connected, because a handshake costs as many bytes as many a batch.
    It has no thread: packets move only while a method runs.

    Args:
        settings: host, port, CA and password.
        device_id: whose messages these are; also the name at the broker.
        folder: that relative paths in the settings start from.
        timeout_s: for connecting, and for the broker's receipt.
        answer_s: how long ``acknowledged`` waits, once, for answers to what was sent.

    Raises:
        SettingsError: a setting that MQTT needs is missing.
    """

    def __init__(
        self,
        settings: UplinkSettings,
        device_id: str,
        *,
        folder: Path = Path(),
        timeout_s: float = 20.0,
        answer_s: float = 1.0,
    ) -> None:
        for name in ("host", "ca_file", "password_file"):
            if not getattr(settings, name):
                raise SettingsError(f"uplink.{name}: is missing; an uplink over MQTT needs it")
        broker = Broker(
            settings.host, settings.port, folder / settings.ca_file, device_id, folder / settings.password_file
        )
        # Between two attempts nothing moves here; the broker must not take that for death.
        keepalive_s = min(max(60, int(2 * settings.every_s)), 65_535)
        self._session = Session(broker, topic_of(ACK, device_id, "+"), keepalive_s=keepalive_s, timeout_s=timeout_s)
        self._device_id, self._answer_s = device_id, answer_s
        self._unanswered: set[str] = set()
        self._answered: set[str] = set()

    def __enter__(self) -> MqttUplink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: Sequence[Message]) -> None:
        """Give a batch to the broker.

        Raises:
            OSError: the broker does not have it; the message says why.
            UplinkError: the batch is too large.
        """
        if batch:
            name, data = pack(batch, self._device_id)
            self._open()
            self._session.deliver(topic_of(UP, self._device_id, name), data)
            self._unanswered |= {message.id for message in batch}
            self._read_answers()

    def acknowledged(self) -> frozenset[str]:
        """Ids that the cloud has for good, each told once. Without a connection, those that were heard of before it."""
        deadline_s = time.monotonic() + self._answer_s
        with suppress(OSError):
            self._open()
            self._session.drain()
            self._read_answers()
            while self._unanswered and (left_s := deadline_s - time.monotonic()) > 0:
                self._session.turn(left_s)
                self._read_answers()
        self._read_answers()
        self._unanswered.clear()
        told, self._answered = frozenset(self._answered), set()
        return told

    def close(self) -> None:
        """Leave the broker, which keeps the session and the answers to come."""
        self._session.close()

    def _open(self) -> None:
        if self._session.is_open:
            with suppress(OSError):
                self._session.drain()
                return
        self._session.open()

    def _read_answers(self) -> None:
        while self._session.arrived:
            message = self._session.arrived.popleft()
            with suppress(UplinkError, UnicodeDecodeError):
                parse_topic(ACK, message.topic)
                if len(self._answered) < _ANSWERS_KEPT:
                    self._answered |= ids_of(bytes(message.payload))
        self._unanswered -= self._answered
