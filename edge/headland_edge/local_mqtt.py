"""The local broker: records of sensors come from it, advice for the irrigation controller goes to it.

    headland/<device>/records/<field>   CSV as in the inbox, at most 256 KiB; put into the inbox like a file
    headland/<device>/advice/<field>    the latest answer as JSON, retained

The broker may be away for weeks; the client tries again by itself, and says everything anew when it is back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headland_edge.board import Board, Said
from headland_edge.inbox import FIELD, MAX_BYTES

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

_QOS = 1
_LONGEST_PAUSE_S = 60
_KEEPALIVE_S = 60


class LocalMqtt:
    """A client of the local broker, in paho's own thread; close it at the end.

    Args:
        host: of the broker.
        port: of it.
        device_id: part of every topic.
        board: what is published.
        arrived: takes field and CSV; called by paho's thread. What it raises is dropped.
    """

    def __init__(
        self, host: str, port: int, device_id: str, board: Board, arrived: Callable[[str, bytes], None]
    ) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._prefix, self._board, self._arrived = f"headland/{device_id}", board, arrived
        self.dropped = 0
        """Messages that could not be taken."""
        # The broker keeps this device's subscription, so that records sent while it restarts are not lost.
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"headland-{device_id}", clean_session=False)
        self._client.on_connect, self._client.on_message = self._on_connect, self._on_message
        self._client.reconnect_delay_set(1, _LONGEST_PAUSE_S)
        self._client.connect_async(host, port, _KEEPALIVE_S)
        board.listeners.append(self._publish)
        self._client.loop_start()

    def close(self) -> None:
        """Leave the broker."""
        self._board.listeners.remove(self._publish)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, field: str, said: Said) -> None:
        if self._client.is_connected():
            payload = json.dumps(said, allow_nan=False).encode()
            self._client.publish(f"{self._prefix}/advice/{field}", payload, _QOS, retain=True)

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:
            client.subscribe(f"{self._prefix}/records/+", _QOS)
            for field, said in self._board.all().items():
                self._publish(field, said)

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        field = message.topic.rpartition("/")[2]
        if not FIELD.fullmatch(field) or not 0 < len(message.payload) <= MAX_BYTES:
            self.dropped += 1
            return
        try:
            self._arrived(field, bytes(message.payload))
        except (OSError, ValueError):
            self.dropped += 1
