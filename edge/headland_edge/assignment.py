"""Who runs what: the one signed file that names a release for every device.

A device is pinned, or in the share a rollout has reached, or gets the base. Which share it is in follows from its
own name and the rollout's salt, so that the cloud keeps no list of ten thousand devices and a device needs no answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from headland_edge.messages import DEVICE_ID

SCHEMA_VERSION = 1
BUCKETS = 10_000
MAX_BYTES = 4 * 1024 * 1024
MAX_SERIAL = 2**53 - 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AssignmentError(ValueError):
    """No assignments; the message names the key and what it must be."""


@dataclass(frozen=True)
class Rollout:
    """A release on its way to the fleet.

    Args:
        id: its name.
        release: SHA-256 of the bundle.
        salt: makes the order of devices differ from rollout to rollout.
        up_to: devices with a bucket below get the release, 0 to ``BUCKETS``.
        first: devices that get it whatever their bucket.
    """

    id: str
    release: str
    salt: str
    up_to: int
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assignments:
    """The whole file.

    Args:
        serial: raised by one with every change.
        base: SHA-256 of the release for all others, or None.
        pins: release by device, before everything else.
        rollout: or None.
    """

    serial: int
    base: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    rollout: Rollout | None = None

    def desired(self, device_id: str) -> str | None:
        """SHA-256 of the release that ``device_id`` should run; None for no wish."""
        if device_id in self.pins:
            return self.pins[device_id]
        rollout = self.rollout
        if rollout and (device_id in rollout.first or bucket(device_id, rollout.salt) < rollout.up_to):
            return rollout.release
        return self.base

    @property
    def releases(self) -> frozenset[str]:
        """All releases it names."""
        named = {*self.pins.values(), self.base, self.rollout.release if self.rollout else None}
        return frozenset(sha for sha in named if sha is not None)


def bucket(device_id: str, salt: str) -> int:
    """Where a device stands in a rollout, 0 to ``BUCKETS`` - 1, evenly spread."""
    return int(hashlib.sha256(f"{salt}/{device_id}".encode()).hexdigest()[:8], 16) % BUCKETS


def encode(assignments: Assignments) -> bytes:
    """Canonical JSON. Raises AssignmentError if ``decode`` would not take it."""
    rollout = assignments.rollout
    plain = {
        "schema_version": SCHEMA_VERSION,
        "serial": assignments.serial,
        "base": assignments.base,
        "pins": dict(assignments.pins),
        "rollout": rollout and {**vars(rollout), "first": list(rollout.first)},
    }
    data = (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode()
    decode(data)
    return data


def decode(data: bytes) -> Assignments:
    """Assignments from their file. Raises AssignmentError for whatever ``encode`` would not have written."""
    if len(data) > MAX_BYTES:
        raise AssignmentError(f"assignments: {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        plain = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise AssignmentError(f"assignments: no JSON: {str(error)[:100]}") from None
    top = _keys(plain, "assignments", {"schema_version", "serial", "base", "pins", "rollout"})
    if top["schema_version"] != SCHEMA_VERSION or isinstance(top["schema_version"], bool):
        _fail(
            "schema_version", f"{SCHEMA_VERSION}; for a newer one install a newer headland-edge", top["schema_version"]
        )
    pins = top["pins"]
    if not isinstance(pins, dict):
        _fail("pins", "an object", pins)
    return Assignments(
        serial=_whole(top["serial"], "serial", MAX_SERIAL),
        base=None if top["base"] is None else _sha256(top["base"], "base"),
        pins={_device(name, "pins"): _sha256(sha, f"pins.{name}") for name, sha in pins.items()},
        rollout=None if top["rollout"] is None else _rollout(top["rollout"]),
    )


def _rollout(plain: object) -> Rollout:
    node = _keys(plain, "rollout", {"id", "release", "salt", "up_to", "first"})
    if not isinstance(node["first"], list):
        _fail("rollout.first", "a list of devices", node["first"])
    return Rollout(
        id=_word(node["id"], "rollout.id"),
        release=_sha256(node["release"], "rollout.release"),
        salt=_word(node["salt"], "rollout.salt"),
        up_to=_whole(node["up_to"], "rollout.up_to", BUCKETS),
        first=tuple(_device(name, "rollout.first") for name in node["first"]),
    )


def _keys(plain: object, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(plain, dict) or set(plain) != keys:
        _fail(where, f"an object with exactly {', '.join(sorted(keys))}", plain)
    return plain


def _whole(value: object, where: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        _fail(where, f"a whole number from 0 to {most}", value)
    return value


def _sha256(value: object, where: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        _fail(where, "a SHA-256 in lower-case hex", value)
    return value


def _word(value: object, where: str) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        _fail(where, "1 to 64 letters, digits, '.', '_' or '-'", value)
    return value


def _device(value: object, where: str) -> str:
    if not isinstance(value, str) or not DEVICE_ID.fullmatch(value):
        _fail(where, "a device's name: 1 to 63 lower-case letters, digits and hyphens", value)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _fail(where: str, expected: str, value: object) -> NoReturn:
    raise AssignmentError(f"{where}: must be {expected}, got {repr(value)[:80]}")
