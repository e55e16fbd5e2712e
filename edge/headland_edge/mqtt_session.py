"""One MQTT 5 session over TLS, kept by the broker while its owner is away. Devices and the cloud speak through it.

There is no thread: packets move only while a method runs, and after ``close`` nothing is left. Every trouble of the way
is an OSError, a refusal by the broker a PermissionError, so that whoever sends has one thing to catch.

    headland/up/<device>/<name>     a batch, packed, from the device
    headland/ack/<device>/<name>    its ids, from the cloud, once it has them for good
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from headland_edge.messages import DEVICE_ID
from headland_edge.uplink import UplinkError, owner_of

UP, ACK = "headland/up", "headland/ack"
KEPT_S = 30 * 24 * 3600
"""How long the broker keeps a session whose owner is away."""
_MAX_PASSWORD_BYTES = 4096
_NOBODY_LISTENS = 0x10


@dataclass(frozen=True)
class Broker:
    """Which broker, and as whom.

    Args:
        host: name or address, as in its certificate.
        port: of its TLS listener.
        ca_file: certificates that may have signed the broker's.
        username: a device's id, or the cloud's name.
        password_file: first line is the password.
    """

    host: str
    port: int
    ca_file: Path
    username: str
    password_file: Path


def topic_of(way: str, device_id: str, name: str) -> str:
    """The topic of a batch (``UP``) or of its answer (``ACK``)."""
    return f"{way}/{device_id}/{name}"


def parse_topic(way: str, topic: str) -> tuple[str, str]:
    """Device and batch of a topic.

    Raises:
        UplinkError: not a topic that ``topic_of`` gives, or a batch that names another device than its topic.
    """
    if not topic.startswith(f"{way}/"):
        raise UplinkError("topic", f"not below {way}")
    device_id, slash, name = topic[len(way) + 1 :].partition("/")
    if not slash or not DEVICE_ID.fullmatch(device_id):
        raise UplinkError("topic", f"not {way}/<device>/<batch>")
    if owner_of(name) != device_id:
        raise UplinkError("not-yours", f"a batch of {owner_of(name)} on the topic of {device_id}")
    return device_id, name


class Session:
    """A session with a broker.

    Args:
        broker: which, and as whom.
        topic: subscribed to, QoS 1, at every connection.
        manual_ack: whether what arrives is acknowledged by ``take`` only, else at once.
        at_once: most messages the broker sends before their acknowledgement.
        keepalive_s: of silence before a ping; the broker drops a connection after half as much again.
        timeout_s: for connecting, and for an answer of the broker.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        *,
        manual_ack: bool = False,
        at_once: int = 100,
        keepalive_s: int = 60,
        timeout_s: float = 20.0,
    ) -> None:
        self._broker, self._topic, self._manual_ack = broker, topic, manual_ack
        self._at_once, self._keepalive_s, self._timeout_s = at_once, keepalive_s, timeout_s
        self._client: Client | None = None
        self._connected: ReasonCode | None = None
        self._subscribed: ReasonCode | None = None
        self._left: ReasonCode | None = None
        self._published: dict[int, ReasonCode] = {}
        self.arrived: deque[MQTTMessage] = deque()
        """What came and was not looked at yet; with ``manual_ack`` emptied when the connection goes."""

    @property
    def is_open(self) -> bool:
        """Whether there was a connection when last looked at."""
        return self._client is not None

    def open(self) -> None:
        """Connect and subscribe.

        Raises:
            PermissionError: the broker does not take name, password or subscription.
            ssl.SSLCertVerificationError: it is not the broker that the CA signed.
            OSError: it is not reached, or does not answer.
        """
        self.close()
        self._connected = self._subscribed = self._left = None
        client = self._client = self._made()
        try:
            self._guarded(lambda: self._connect(client))
            self._wait(lambda: self._connected is not None, "the broker's welcome")
            self._refuse_if_failed(self._connected, f"does not take {self._broker.username}")
            client.subscribe(self._topic, options=SubscribeOptions(qos=1, retainHandling=2))
            self._wait(lambda: self._subscribed is not None, "the subscription")
            self._refuse_if_failed(self._subscribed, f"does not let {self._broker.username} read {self._topic}")
        except BaseException:
            self._drop()
            raise

    def turn(self, wait_s: float) -> None:
        """Move packets; returns after the first that came, at the latest after ``wait_s``.

        Raises:
            OSError: the connection is gone.
        """
        client = self._client
        if client is None:
            raise ConnectionError("not connected")
        code = self._guarded(lambda: client.loop(wait_s))
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or client.socket() is None:
            left = self._left
            self._drop()
            raise ConnectionError(f"{self._where()}: the connection is lost ({left or code.name})")

    def drain(self) -> None:
        """Move packets until none is waiting here."""
        before = -1
        while before != len(self.arrived):
            before = len(self.arrived)
            self.turn(0.0)

    def publish(self, topic: str, data: bytes, *, kept_s: int = KEPT_S) -> int:
        """Put a message on its way, QoS 1; returns its number. Raises OSError."""
        if self._client is None:
            raise ConnectionError("not connected")
        properties = _properties(PacketTypes.PUBLISH, MessageExpiryInterval=kept_s)
        info = self._client.publish(topic, data, qos=1, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._drop()
            raise ConnectionError(f"{self._where()}: the connection is lost ({info.rc.name})")
        return info.mid

    def published(self) -> dict[int, OSError | None]:
        """What the broker answered since the last call: by number, None or why it did not take the message."""
        answered, self._published = self._published, {}
        return {number: self._complaint(reason) for number, reason in answered.items()}

    def deliver(self, topic: str, data: bytes) -> None:
        """Publish, and wait until the broker has it.

        Raises:
            PermissionError: this user may not write there.
            OSError: the broker does not have it, or has nobody to keep it for.
        """
        number = self.publish(topic, data)
        self._wait(lambda: number in self._published, "the broker's receipt")
        complaint = self._complaint(self._published.pop(number))
        if complaint is not None:
            raise complaint

    def take(self, message: MQTTMessage) -> None:
        """Tell the broker that a message is done with (``manual_ack``). Raises OSError."""
        if self._client is None:
            raise ConnectionError("not connected")
        if message.qos:
            self._client.ack(message.mid, message.qos)

    def close(self) -> None:
        """Say good-bye, if that is possible; the broker keeps the session."""
        if self._client is not None:
            self._client.disconnect()
        self._drop()

    def _made(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._broker.username,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=self._manual_ack,
        )
        client.connect_timeout = self._timeout_s
        client.max_inflight_messages = 0  # the caller decides how much is under way
        client.on_connect, client.on_subscribe = self._on_connect, self._on_subscribe
        client.on_publish, client.on_message = self._on_publish, self._on_message
        client.on_disconnect = self._on_disconnect
        return client

    def _connect(self, client: Client) -> None:
        broker = self._broker
        client.tls_set_context(_tls(broker.ca_file))
        client.username_pw_set(broker.username, _password(broker.password_file))
        properties = _properties(PacketTypes.CONNECT, SessionExpiryInterval=KEPT_S, ReceiveMaximum=self._at_once)
        client.connect(broker.host, broker.port, self._keepalive_s, clean_start=False, properties=properties)

    def _wait(self, until: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + self._timeout_s
        while not until():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._drop()
                raise TimeoutError(f"{self._where()}: {what} did not come within {self._timeout_s:g} s")
            try:
                self.turn(min(left_s, 1.0))
            except ConnectionError:
                # A broker that refuses hangs up right after it said so.
                if until():
                    return
                raise

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except OSError:
            self._drop()
            raise
        except Exception as error:  # paho lets whatever its parser stumbles over through
            self._drop()
            raise ConnectionError(f"{self._where()}: does not speak MQTT 5 ({error!r:.100})") from error

    def _drop(self) -> None:
        """Forget the connection and what it had under way; what the broker will send again goes as well."""
        client, self._client = self._client, None
        self._published.clear()
        if self._manual_ack:
            self.arrived.clear()
        socket = client.socket() if client is not None else None
        if socket is not None:
            socket.close()

    def _refuse_if_failed(self, reason: ReasonCode | None, what: str) -> None:
        if reason is not None and reason.is_failure:
            raise PermissionError(f"{self._where()} {what}: {reason}. Check name, password and the broker's ACL")

    def _complaint(self, reason: ReasonCode) -> OSError | None:
        if reason.is_failure:
            return PermissionError(f"{self._where()} does not take the message: {reason}. Check the broker's ACL")
        if reason.value == _NOBODY_LISTENS:
            return ConnectionError(f"{self._where()}: nobody has ever listened there; start the cloud's ingest first")
        return None

    def _where(self) -> str:
        return f"broker {self._broker.host}:{self._broker.port}"

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        self._connected = reason

    def _on_subscribe(self, client: Client, data: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        self._subscribed = reasons[0]

    def _on_publish(self, client: Client, data: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self._published[mid] = reason

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        self.arrived.append(message)

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if self._left is None:  # paho tells of it again once it finds the socket closed, without the broker's reason
            self._left = reason


def _properties(packet: int, **values: int) -> Properties:
    made = Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves its constructor untyped
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _tls(ca_file: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except (FileNotFoundError, ssl.SSLError) as error:
        raise OSError(f"{ca_file}: not the CA's certificate (PEM): {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _password(path: Path) -> str:
    with path.open("rb") as file:
        lines = file.read(_MAX_PASSWORD_BYTES).splitlines()
    try:
        return lines[0].decode()
    except (IndexError, UnicodeDecodeError):
        raise OSError(f"{path}: its first line is no password") from None
