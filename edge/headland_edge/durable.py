"""Files that are whole or absent: written aside, flushed, renamed. And content that carries its hash."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

_MAX_SEALED_BYTES = 65536


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
        _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def flush(folder: Path) -> None:
    """Bring files and folders below ``folder``, which somebody else wrote, to the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _flush_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def sealed(content: dict[str, Any]) -> bytes:
    """JSON on one line, its hash on the next."""
    text = json.dumps(content, sort_keys=True).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def unsealed(path: Path) -> dict[str, Any] | None:
    """What ``sealed`` made and is in ``path``; None for anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SEALED_BYTES)
    except OSError:
        return None
    text, _, told = data.partition(b"\n")
    if told != hashlib.sha256(text).hexdigest().encode() + b"\n":
        return None
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
