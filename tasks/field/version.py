"""A version of the field's data: its hash as DVC names it, its card, and what DVC keeps of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from tasks.durable import write_json
from tasks.field.partitions import CARD, RECORDS, FieldDataError, files, read
from tasks.running import AlreadyRunningError
from tasks.stages import child_environment

RECORDS_DVC = f"{RECORDS}.dvc"


def version_of(folder: Path) -> str:
    """MD5 of all files as DVC computes it for a folder; empty if there are none."""
    listed = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.relative_to(folder / RECORDS).as_posix()}
        for path in files(folder)
    ]
    listed.sort(key=lambda entry: entry["relpath"])
    return f"{hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest()}.dir" if listed else ""


def kept_version(folder: Path) -> str:
    """What ``records.dvc`` names; empty if there is none or it cannot be read."""
    try:
        return str(yaml.safe_load((folder / RECORDS_DVC).read_text())["outs"][0]["md5"])
    except (OSError, yaml.YAMLError, TypeError, KeyError, IndexError):
        return ""


def add_version(root: Path, folder: Path) -> bool:
    """Let DVC keep the files as they are; False if it does already.

    Raises:
        AlreadyRunningError: DVC is at work in the project.
        FieldDataError: DVC cannot keep them.
    """
    version = version_of(folder)
    if not version or version == kept_version(folder):
        return False
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "add", "--quiet", str((folder / RECORDS).relative_to(root))],
        cwd=root,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if "Unable to acquire lock" in done.stderr or "is being blocked by" in done.stderr:
        raise AlreadyRunningError("DVC is at work in this project. Sync again when it has ended; nothing is lost.")
    if done.returncode != 0 or version != kept_version(folder):
        raise FieldDataError(f"DVC did not keep {folder / RECORDS}: {done.stderr.strip()[-500:] or 'files changed'}")
    return True


def write_card(folder: Path, refused: Mapping[str, int], dropped: Mapping[str, int]) -> bool:
    """Describe the files in ``card.json``, once for each version; False if the card is of this version already.

    Args:
        folder: the field's.
        refused: record messages refused so far, by reason.
        dropped: readings left out as faults so far, by column.
    """
    version = version_of(folder)
    if not version or read_card(folder).get("md5") == version:
        return False
    write_json(
        folder / CARD, {**_described(folder), "md5": version, "refused": dict(refused), "dropped": dict(dropped)}
    )
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """The card; empty if there is none or it is damaged."""
    try:
        card = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _described(folder: Path) -> dict[str, Any]:
    paths = files(folder)
    rows = pl.concat([read(path) for path in paths])
    device = pl.col("field_id").str.split("/").list.first().alias("device")
    whys = rows.select(pl.col("why").str.split(",").explode())
    return {
        "rows": rows.height,
        "fields": rows.select("field_id", "season").unique().height,
        "files": len(paths),
        "bytes": sum(path.stat().st_size for path in paths),
        "first_date": str(rows["date"].min()),
        "last_date": str(rows["date"].max()),
        "by_device": _counted(rows.select(device), "device"),
        "by_crop": _counted(rows, "crop"),
        "by_season": _counted(rows, "season"),
        "by_why": _counted(whys, "why"),
        "random_share": _share(rows, pl.col("why").str.contains("random")),
        "harvested_share": _share(rows, pl.col("harvest_t_ha").is_not_null()),
    }


def _counted(rows: pl.DataFrame, column: str) -> dict[str, int]:
    counted = rows.group_by(column).len().sort(column)
    return {str(value): int(count) for value, count in counted.iter_rows()}


def _share(rows: pl.DataFrame, which: pl.Expr) -> float:
    return round(rows.filter(which).height / rows.height, 6)
