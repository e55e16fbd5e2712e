"""Effect: batches from the broker into the store. A device is answered once its messages lie on the disk.

One session that the broker keeps, and one consumer: what comes while it is away waits in the broker. Some batches are
judged and committed together, then answered to their devices, and only then acknowledged to the broker. Killed anywhere
in between, they come again; the store has them already, and the answer is given again.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from headland_edge.mqtt_session import ACK, UP, Broker, Session, parse_topic, topic_of
from headland_edge.uplink import UplinkError, receipt
from paho.mqtt.client import MQTTMessage

from tasks.fleet.broker import AT_ONCE, broker_of
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import Ingested, Judged, judge, keep, refused_whole
from tasks.fleet.repository import FleetError
from tasks.fleet.store import Store, StoreError

_GROUP_BYTES = 8 * 1024 * 1024
_TURN_S = 0.5
_RETRY_S = (0.2, 30.0)
log = logging.getLogger(__name__)


def consume(
    fleet: Path,
    stop: threading.Event,
    *,
    broker: Broker | None = None,
    now_s: Callable[[], float] = time.time,
) -> Ingested:
    """Take in what devices send, until ``stop`` is set; a broker that goes away is waited for.

    Args:
        fleet: its folder; a second consumer of the same fleet is refused.
        stop: looked at every half second.
        broker: None for the one in the fleet's folder.
        now_s: the clock.

    Raises:
        FleetError: no broker is known, it does not let the cloud in, somebody else listens, or the list of devices
            cannot be read.
        StoreError: the store cannot be written; nothing of it was acknowledged.
    """
    found, folder = Ingested(), FleetFolder(fleet)
    login = broker or broker_of(fleet).login()
    session = Session(login, f"{UP}/+/+", manual_ack=True, at_once=AT_ONCE)
    with _alone(fleet), Store(folder.store) as store:
        wait_s, opened_s = _RETRY_S[0], 0.0
        while not stop.is_set():
            try:
                if not session.is_open:
                    session.open()
                    log.info("listening at %s:%d", login.host, login.port)
                    opened_s = time.monotonic()
                session.turn(_TURN_S)
                group = _gathered(session, folder)
            except (PermissionError, ssl.SSLCertVerificationError) as error:
                raise FleetError(f"Cannot listen: {error}") from None
            except OSError as error:
                # Only a connection that lasted counts as mended: two that take the session from each other slow down.
                if time.monotonic() - opened_s > _RETRY_S[1]:
                    wait_s = _RETRY_S[0]
                log.warning("%s; trying again in %.1f s", error, wait_s)
                stop.wait(wait_s)
                wait_s = min(wait_s * 2, _RETRY_S[1])
                continue
            if group:
                _keep(folder, store, [batch for _, batch in group], now_s(), found)
                _answer(session, group)
        session.close()
    return found


def judge_message(message: MQTTMessage, devices: Collection[str] | None = None) -> Judged:
    """What a message of the broker holds; never raises for it."""
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = ""
    try:
        _, name = parse_topic(UP, topic)
    except UplinkError as error:
        return refused_whole(topic, error)
    return judge(name, bytes(message.payload), devices)


def _gathered(session: Session, folder: FleetFolder) -> list[tuple[MQTTMessage, Judged]]:
    """What has arrived by now, as much as fits one commit."""
    group: list[tuple[MQTTMessage, Judged]] = []
    size = 0
    if not session.arrived:
        return group
    devices = folder.enrolled()
    while len(group) < AT_ONCE and size < _GROUP_BYTES:
        if not session.arrived:
            session.turn(0.0)
        if not session.arrived:
            break
        message = session.arrived.popleft()
        batch = judge_message(message, devices)
        group.append((message, batch))
        size += batch.unpacked_bytes
    return group


def _keep(folder: FleetFolder, store: Store, batches: list[Judged], received_s: float, found: Ingested) -> None:
    try:
        keep(batches, store, folder.quarantine, received_s=received_s, found=found)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"{folder.root}: cannot keep what came ({error}). Mend it and start again: the broker has it still"
        ) from None


def _answer(session: Session, group: list[tuple[MQTTMessage, Judged]]) -> None:
    """Answer devices, then the broker. What a lost connection prevents is made good when the batch comes again."""
    try:
        for message, batch in group:
            if batch.whole:
                device_id, name = parse_topic(UP, message.topic)
                session.publish(topic_of(ACK, device_id, name), receipt(batch.ids))
            session.take(message)
        session.published()
    except OSError as error:
        log.warning("%s; %d batches will come again", error, len(group))


@contextmanager
def _alone(fleet: Path) -> Iterator[None]:
    """Two consumers would take the session from each other for ever."""
    fleet.mkdir(parents=True, exist_ok=True)
    with (fleet / "listen.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FleetError(f"{fleet}: another process listens for this fleet already. Stop it first") from None
        yield
