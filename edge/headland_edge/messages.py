"""What a device sends: one small JSON object a message, checked the same way on both sides.

A message's id is the hash of what it says, so that one that is sent twice is one message to whoever receives it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

KINDS = ("health", "event", "advice", "record")
"""By priority: what is sent first and dropped last comes first."""
MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ID = re.compile(r"[0-9a-f]{32}")
_KEYS = {"id", "device_id", "kind", "time_s", "body"}
_LAST_S = 4_102_444_800.0  # the year 2100


class MessageError(ValueError):
    """No message; ``code`` is one word for counting, the text says what is wrong."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Message:
    """One message.

    Args:
        device_id: who says it; lower-case letters, digits and hyphens.
        kind: one of ``KINDS``.
        time_s: seconds since 1970 by the device's clock, which may be wrong.
        body: JSON-able, finite numbers only.
    """

    device_id: str
    kind: str
    time_s: float
    body: dict[str, Any]

    @cached_property
    def id(self) -> str:
        """Hash of all the rest, 32 hexadecimal digits."""
        return hashlib.sha256(self.line("")).hexdigest()[:32]

    @cached_property
    def body_json(self) -> bytes:
        """The body as JSON, sorted and without spaces."""
        return _json(self.body)

    def line(self, told_id: str) -> bytes:
        """All as JSON, keys sorted; the body, which is nearly all of it, is written only once a message."""
        rest = {"device_id": self.device_id, "id": told_id, "kind": self.kind, "time_s": self.time_s}
        return b'{"body":' + self.body_json + b"," + _json(rest)[1:]


def encode(message: Message) -> bytes:
    """One line of JSON without its end. Raises MessageError if it would not be taken at the other end."""
    check(message)
    line = message.line(message.id)
    if len(line) > MAX_BYTES:
        raise MessageError("oversized", f"{len(line)} bytes, at most {MAX_BYTES} are taken")
    return line


def decode(line: bytes) -> Message:
    """A message from its line. Raises MessageError for anything that ``encode`` would not have written."""
    if len(line) > MAX_BYTES:
        raise MessageError("oversized", f"{len(line)} bytes, at most {MAX_BYTES} are taken")
    try:
        plain = json.loads(line, parse_constant=_no_constant)
    except MessageError:
        raise
    except (ValueError, RecursionError) as error:
        raise MessageError("malformed", f"no JSON: {str(error)[:100]}") from None
    if not isinstance(plain, dict) or set(plain) != _KEYS:
        raise MessageError("malformed", f"not an object with exactly {', '.join(sorted(_KEYS))}")
    told = plain["id"]
    if not isinstance(told, str) or not _ID.fullmatch(told):
        raise MessageError("malformed", "id: not 32 hexadecimal digits")
    message = Message(plain["device_id"], plain["kind"], plain["time_s"], plain["body"])
    check(message)
    if message.id != told:
        raise MessageError("forged", "id: not the hash of the message")
    return message


def check(message: Message) -> None:
    """Raise MessageError unless every part is of its type, finite and within limits."""
    if not isinstance(message.device_id, str) or not DEVICE_ID.fullmatch(message.device_id):
        raise MessageError("malformed", "device_id: not 1 to 63 lower-case letters, digits and hyphens")
    if message.kind not in KINDS:
        raise MessageError("malformed", f"kind: not one of {', '.join(KINDS)}")
    time_s = message.time_s
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not 0 <= time_s <= _LAST_S:
        raise MessageError("malformed", "time_s: not a number of seconds between 1970 and 2100")
    if not isinstance(message.body, dict):
        raise MessageError("malformed", "body: not an object")
    _check_value(message.body, "body", 0)


def _check_value(value: object, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MessageError("malformed", f"{where}: nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str) or len(key) > 100:
                raise MessageError("malformed", f"{where}: a key that is no short text")
            _check_value(each, f"{where}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for each in value:
            # Nearly all of a record is numbers: no call for each.
            if type(each) is not float or not isfinite(each):
                _check_value(each, where, depth + 1)
    elif isinstance(value, float):
        if not isfinite(value):
            raise MessageError("not-finite", f"{where}: not a finite number")
    elif not isinstance(value, str | bool | int | None):
        raise MessageError("malformed", f"{where}: {type(value).__name__} is no JSON")


def _no_constant(name: str) -> float:
    raise MessageError("not-finite", f"holds {name}")


def _json(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
