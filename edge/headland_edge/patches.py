"""Patches: a new bundle from the one the device holds, in a fraction of its bytes.

For every member the smallest of four ways is taken: ``copy`` (nothing changed), ``subtract`` (difference of bytes at
the same position, packed: a fine-tuned int8 net moves every weight by a little, which only this sees), ``dictionary``
(packed with the old member as dictionary: text that moved), ``whole``. Two bundles always give the same patch.

A patch is not believed: sizes are limited before anything is unpacked, and the result counts only if it has the hash
that was signed. Layout: magic, length of the packed header (4 bytes, big-endian), packed header (JSON), packed members.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from headland_edge.bundle import (
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    MAX_TOTAL_BYTES,
    BundleError,
    _decode_tar,
    _encode_tar,
)

MAGIC = b"HPATCH1\n"
METHODS = ("copy", "subtract", "dictionary", "whole")
MAX_HEADER_BYTES = 64 * 1024
_LEVEL = 19
_WINDOW_LOG = 27
_PREFIX = struct.Struct(">I")


class PatchError(ValueError):
    """A patch that cannot be used; fetch the whole file instead."""


@dataclass(frozen=True)
class _Member:
    name: str
    method: str
    size: int
    packed: int


def make_patch(old: bytes, new: bytes) -> bytes:
    """What makes bundle ``new`` of bundle ``old``. Raises BundleError if one of them is none."""
    before, after = _decode_tar(old), _decode_tar(new)
    header, payloads = [], []
    for name, content in after.items():
        method, payload = _smallest(before.get(name), content)
        header.append([name, method, len(content), len(payload)])
        payloads.append(payload)
    text = json.dumps({"from": _hash(old), "to": _hash(new), "members": header}, separators=(",", ":")).encode()
    packed = _pack(text)
    return b"".join([MAGIC, _PREFIX.pack(len(packed)), packed, *payloads])


def apply_patch(old: bytes, patch: bytes, sha256: str) -> bytes:
    """The new bundle's bytes.

    Args:
        old: bytes of the bundle the patch starts from.
        patch: from ``make_patch``, by way of strangers.
        sha256: the result must have.

    Raises:
        PatchError: for any patch that does not give exactly these bytes.
    """
    try:
        members = _apply(old, patch, sha256)
        data = _encode_tar(members)
    except BundleError as error:
        raise PatchError(f"patch: {error}") from None
    if _hash(data) != sha256:
        raise PatchError("patch: does not give the bundle that was signed")
    return data


def _apply(old: bytes, patch: bytes, sha256: str) -> dict[str, bytes]:
    if len(patch) > MAX_TOTAL_BYTES:
        raise PatchError(f"patch: {len(patch)} bytes, at most {MAX_TOTAL_BYTES} are read")
    plain, at = _header(patch)
    if plain.get("from") != _hash(old) or plain.get("to") != sha256:
        raise PatchError("patch: is between other bundles")
    members = _members(plain.get("members"))
    if at + sum(member.packed for member in members) != len(patch):
        raise PatchError("patch: is cut off or followed by other data")
    before = _decode_tar(old)
    made: dict[str, bytes] = {}
    for member in members:
        payload = patch[at : at + member.packed]
        at += member.packed
        made[member.name] = _restore(before.get(member.name), member, payload)
    return made


def _header(patch: bytes) -> tuple[dict[str, Any], int]:
    start = len(MAGIC) + _PREFIX.size
    if not patch.startswith(MAGIC) or len(patch) < start:
        raise PatchError("patch: not one of this headland-edge")
    (length,) = _PREFIX.unpack_from(patch, len(MAGIC))
    if length > MAX_HEADER_BYTES or start + length > len(patch):
        raise PatchError("patch: header too long")
    try:
        plain = json.loads(_unpack(patch[start : start + length], None, MAX_HEADER_BYTES, exact=False))
    except (ValueError, RecursionError):
        raise PatchError("patch: header damaged") from None
    if not isinstance(plain, dict):
        raise PatchError("patch: header damaged")
    return plain, start + length


def _members(plain: object) -> list[_Member]:
    if not isinstance(plain, list) or not 0 < len(plain) <= MAX_MEMBERS:
        raise PatchError(f"patch: must hold 1 to {MAX_MEMBERS} members")
    members = [_member(row) for row in plain]
    if len({member.name for member in members}) != len(members):
        raise PatchError("patch: a member stands twice")
    if sum(member.size for member in members) > MAX_TOTAL_BYTES:
        raise PatchError(f"patch: would give more than {MAX_TOTAL_BYTES} bytes")
    return members


def _member(row: object) -> _Member:
    if not isinstance(row, list) or len(row) != 4:
        raise PatchError("patch: a member without name, method, size and packed size")
    name, method, size, packed = row
    if not isinstance(name, str) or method not in METHODS:
        raise PatchError("patch: a member with an unknown method")
    if any(type(each) is not int or not 0 <= each <= MAX_MEMBER_BYTES for each in (size, packed)):
        raise PatchError(f"patch: a member larger than {MAX_MEMBER_BYTES} bytes")
    return _Member(name, method, size, packed)


def _smallest(old: bytes | None, new: bytes) -> tuple[str, bytes]:
    if old == new:
        return "copy", b""
    return min(_ways(old, new), key=lambda way: (len(way[1]), METHODS.index(way[0])))


def _ways(old: bytes | None, new: bytes) -> Iterator[tuple[str, bytes]]:
    yield "whole", _pack(new)
    if old:
        yield "subtract", _pack(_shift(new, old, -1))
        yield "dictionary", _pack(new, old)


def _restore(old: bytes | None, member: _Member, payload: bytes) -> bytes:
    if member.method == "whole":
        return _unpack(payload, None, member.size)
    if old is None:
        raise PatchError(f"patch, member {member.name}: the old bundle has none")
    if member.method == "copy":
        if payload or len(old) != member.size:
            raise PatchError(f"patch, member {member.name}: is not the old one")
        return old
    if member.method == "dictionary":
        return _unpack(payload, old, member.size)
    return _shift(_unpack(payload, None, member.size), old, 1)


def _shift(data: bytes, old: bytes, sign: int) -> bytes:
    """``data`` plus or minus ``old``, byte by byte modulo 256; past the end of ``old`` as it is."""
    shifted = np.frombuffer(data, np.uint8).copy()
    common = min(len(data), len(old))
    other = np.frombuffer(old, np.uint8)[:common]
    shifted[:common] += other if sign > 0 else -other
    return shifted.tobytes()


def _pack(data: bytes, dictionary: bytes | None = None) -> bytes:
    import zstandard

    window = min(_WINDOW_LOG, max(10, (len(data) + len(dictionary or b"")).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=window, write_content_size=True)
    if dictionary is None:
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    base = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=base).compress(data)


def _unpack(data: bytes, dictionary: bytes | None, size: int, *, exact: bool = True) -> bytes:
    """Unpacked data; its size stands in its first bytes and is checked before memory is taken for it."""
    import zstandard

    try:
        told = zstandard.get_frame_parameters(data)
        if told.content_size > size or (exact and told.content_size != size):
            raise PatchError("patch: a member unpacks to another size than told")
        if told.window_size > 2**_WINDOW_LOG:
            raise PatchError("patch: a member needs too much memory")
        base = None
        if dictionary is not None:
            base = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        unpacker = zstandard.ZstdDecompressor(dict_data=base, max_window_size=2**_WINDOW_LOG)
        made: bytes = unpacker.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PatchError(f"patch: damaged ({error})") from None
    if len(made) > size or (exact and len(made) != size):
        raise PatchError("patch: a member unpacks to another size than told")
    return made


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
