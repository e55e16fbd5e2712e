"""The ring: raw records on the device, as many bytes as the settings allow, the oldest leaving first.

    ring/00000012.seg   records one after the other: length (4 bytes), CRC-32 (4 bytes), bytes

A segment is only ever appended to; when it is full the next one begins, and when there are too many the oldest is
deleted. What a power cut tears off is a tail, and a flipped byte costs the record it hit: reading goes on behind it.
Where policy says that raw data may not stay, nothing is written, and ``discard`` removes what there is at once.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

MAX_RECORD_BYTES = 64 * 1024
_SEGMENTS = 8
_HEAD = struct.Struct(">II")
_SUFFIX = ".seg"


class Ring:
    """The ring below a folder; one process writes.

    Args:
        root: its folder.
        most_bytes: that all segments take together, heads included; at least one record's worth of each segment.
        keep: False where raw records may not stay on the device.
    """

    def __init__(self, root: Path, most_bytes: int, *, keep: bool = True) -> None:
        self._root, self._keep = root, keep
        self._segment_bytes = most_bytes // _SEGMENTS
        if not keep:
            self.discard()

    def append(self, record: bytes) -> bool:
        """Keep a record; False if policy or size forbids it.

        Raises:
            OSError: the disk takes nothing; what was there stays.
        """
        size = _HEAD.size + len(record)
        if not self._keep or len(record) > MAX_RECORD_BYTES or size > self._segment_bytes:
            return False
        self._root.mkdir(parents=True, exist_ok=True)
        segments = self._segments()
        last = segments[-1] if segments else self._root / f"{0:08d}{_SUFFIX}"
        if last.exists() and last.stat().st_size + size > self._segment_bytes:
            last = self._root / f"{int(last.stem) + 1:08d}{_SUFFIX}"
            for oldest in segments[: max(0, len(segments) - _SEGMENTS + 1)]:
                oldest.unlink(missing_ok=True)
        with last.open("ab") as file:
            file.write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
        return True

    def flush(self) -> None:
        """Have the last segment on the disk for good; the operating system does so by itself within seconds."""
        for last in self._segments()[-1:]:
            with last.open("rb") as file:
                os.fsync(file.fileno())

    def records(self) -> Iterator[bytes]:
        """All whole records, the oldest first."""
        for segment in self._segments():
            try:
                data = segment.read_bytes()
            except OSError:
                continue
            yield from _whole_records(data)

    def discard(self) -> int:
        """Remove every record at once; returns how many segments went."""
        segments = self._segments()
        for segment in segments:
            segment.unlink(missing_ok=True)
        return len(segments)

    @property
    def size_bytes(self) -> int:
        """What all segments take."""
        return sum(segment.stat().st_size for segment in self._segments())

    def _segments(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return sorted(path for path in self._root.iterdir() if path.suffix == _SUFFIX and path.stem.isdecimal())


def _whole_records(data: bytes) -> Iterator[bytes]:
    """Records whose checksum is right. Where one's is not, the next head that fits is looked for byte by byte."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, told = _HEAD.unpack_from(data, at)
        record = data[at + _HEAD.size : at + _HEAD.size + length]
        if 0 < length <= MAX_RECORD_BYTES and len(record) == length and zlib.crc32(record) == told:
            yield record
            at += _HEAD.size + length
        else:
            at += 1
