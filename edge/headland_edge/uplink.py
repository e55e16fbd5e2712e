"""The way out: batches of messages into a folder, and the receipts that come back.

    <folder>/outgoing/<device>-<hash>.jsonl.zst   a batch: messages, a line each, packed
    <folder>/acks/<device>-<hash>.ack             its ids, written by the cloud once it has them for good

The folder is a stick, a shared drive, or what another program carries away. A message leaves the outbox only when its
receipt is read: a lost stick costs a second copy, never a message. The same messages always make the same file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from headland_edge.durable import write_bytes
from headland_edge.messages import MAX_BYTES, Message, MessageError, decode, encode

OUTGOING, ACKS = "outgoing", "acks"
SUFFIX, ACK_SUFFIX = ".jsonl.zst", ".ack"
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Of a batch unpacked."""
MAX_FILE_BYTES = 4 * 1024 * 1024
_LEVEL = 9
_ID = re.compile(rb"[0-9a-f]{32}")
_NAME = re.compile(r"(?P<device>[a-z0-9][a-z0-9-]{0,62})-(?P<hash>[0-9a-f]{16})")


class UplinkError(ValueError):
    """A batch that is none; ``code`` is one word for counting."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Uplink(Protocol):
    """Anything that carries messages to the cloud."""

    def send(self, batch: Sequence[Message]) -> None:
        """Put a batch on its way. Raises OSError if it cannot leave; it is tried again later."""

    def acknowledged(self) -> frozenset[str]:
        """Ids of messages that the cloud has for good, as far as was heard of."""


class FolderUplink:
    """Batches in a folder.

    Args:
        folder: made if need be.
        device_id: whose messages these are.
    """

    def __init__(self, folder: Path, device_id: str) -> None:
        self._folder, self._device_id = folder, device_id
        self._read: list[Path] = []
        self._lying: dict[str, frozenset[str]] = {}

    def send(self, batch: Sequence[Message]) -> None:
        """Write a batch, whole or not at all; what lies there already stays as it is."""
        if batch:
            name, data = pack(batch, self._device_id)
            path = self._folder / OUTGOING / name
            if not path.exists():
                write_bytes(path, data)

    def acknowledged(self) -> frozenset[str]:
        """Ids in the receipts for this device. Their batches are removed; receipts whose batch is gone as well."""
        found: set[str] = set()
        self._read = self._own(ACKS, ACK_SUFFIX)
        for receipt in self._read:
            found |= read_ack(receipt)
            (self._folder / OUTGOING / (receipt.name.removesuffix(ACK_SUFFIX) + SUFFIX)).unlink(missing_ok=True)
        return frozenset(found)

    def forget(self) -> int:
        """Remove the receipts read last, after their messages left the outbox; returns how many."""
        for receipt in self._read:
            receipt.unlink(missing_ok=True)
        gone, self._read = len(self._read), []
        return gone

    def under_way(self) -> frozenset[str]:
        """Ids in batches that still lie in the folder. Each is read once only; a damaged one counts as lost."""
        lying = {path.name: path for path in self._own(OUTGOING, SUFFIX)}
        self._lying = {
            name: self._lying[name] if name in self._lying else _ids_in(path) for name, path in lying.items()
        }
        return frozenset().union(*self._lying.values())

    def _own(self, folder: str, suffix: str) -> list[Path]:
        """Files of this device, whose name may begin like another's."""
        found = sorted((self._folder / folder).glob(f"{self._device_id}-*{suffix}"))
        named = [(path, _NAME.fullmatch(path.name.removesuffix(suffix))) for path in found]
        return [path for path, name in named if name is not None and name["device"] == self._device_id]


def pack(batch: Sequence[Message], device_id: str) -> tuple[str, bytes]:
    """Name and bytes of a batch. Raises UplinkError if it is too large to be taken."""
    import zstandard

    lines = b"".join(encode(message) + b"\n" for message in batch)
    if len(lines) > MAX_BATCH_BYTES:
        raise UplinkError("oversized", f"{len(lines)} bytes, at most {MAX_BATCH_BYTES} go into a batch")
    data = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(lines)
    return f"{device_id}-{hashlib.sha256(lines).hexdigest()[:16]}{SUFFIX}", data


def owner_of(name: str) -> str:
    """The device a batch's file name tells. Raises UplinkError for a name that ``pack`` does not give."""
    named = _NAME.fullmatch(name.removesuffix(SUFFIX)) if name.endswith(SUFFIX) else None
    if named is None:
        raise UplinkError("name", "not the name of a batch")
    return named["device"]


def unpack(name: str, data: bytes) -> list[bytes]:
    """Lines of a batch, each still to be decoded.

    Raises:
        UplinkError: a name or content that ``pack`` would not have given; at most ``MAX_BATCH_BYTES`` are unpacked.
    """
    import zstandard

    owner_of(name)
    if len(data) > MAX_FILE_BYTES:
        raise UplinkError("oversized", f"{len(data)} bytes, at most {MAX_FILE_BYTES} are taken")
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_BATCH_BYTES:
            raise UplinkError("oversized", f"unpacks to {size} bytes, at most {MAX_BATCH_BYTES} are taken")
        lines = zstandard.ZstdDecompressor(max_window_size=MAX_BATCH_BYTES * 2).decompress(
            data, max_output_size=MAX_BATCH_BYTES, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise UplinkError("damaged", f"does not unpack: {error}") from None
    if hashlib.sha256(lines).hexdigest()[:16] != name.removesuffix(SUFFIX)[-16:]:
        raise UplinkError("damaged", "its content is not the one its name tells")
    return [line for line in lines.split(b"\n") if line]


def _ids_in(path: Path) -> frozenset[str]:
    try:
        return frozenset(decode(line).id for line in unpack(path.name, path.read_bytes()))
    except (OSError, UplinkError, MessageError):
        return frozenset()


def write_ack(folder: Path, name: str, ids: Sequence[str]) -> None:
    """The cloud's receipt for a batch, to be written after its messages were kept for good."""
    write_bytes(folder / ACKS / (name.removesuffix(SUFFIX) + ACK_SUFFIX), receipt(ids))


def receipt(ids: Sequence[str]) -> bytes:
    """What a receipt holds: an id a line."""
    return "".join(f"{each}\n" for each in ids).encode()


def read_ack(path: Path) -> set[str]:
    """Ids of a receipt; lines that are none are left out, what is too long is not read."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return set()
        return ids_of(path.read_bytes())
    except OSError:
        return set()


def ids_of(data: bytes) -> set[str]:
    """Ids that a receipt holds; lines that are none are left out."""
    return {line.decode() for line in data.split(b"\n") if _ID.fullmatch(line)}


def taken(line: bytes, owner: str) -> Message:
    """A message of a batch, if it is its owner's. Raises MessageError."""
    if len(line) > MAX_BYTES:
        raise MessageError("oversized", f"{len(line)} bytes, at most {MAX_BYTES} are taken")
    message = decode(line)
    if message.device_id != owner:
        raise MessageError("not-yours", f"says to be of {message.device_id}, came from {owner}")
    return message
