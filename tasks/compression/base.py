"""The earlier release that a new one may be based on: ``data/base/release``, an input like field data.

The folder holds ``base.json`` (which release, what its nets read and mean) and each net's int8 file as it was shipped.
``tasks.fleet.base`` fills it from a bundle; stages only read it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.training.windows import Windows

BASE = Path("data/base/release")
_FILL = "Fill data/base anew: headland fleet base"
_WHOLE = "Set compression.from_base: false in params.yaml for a release that devices fetch whole."


class BaseError(Exception):
    """An earlier release that nothing can be based on; the message says why and what to do."""


@dataclass(frozen=True)
class Base:
    """One net of an earlier release.

    Args:
        counter: of the release.
        bundle_sha256: of the release's bundle.
        model: the int8 file.
    """

    counter: int
    bundle_sha256: str
    model: bytes


def open_base(folder: Path, model: str, windows: Windows) -> Base | str:
    """The earlier release's net, checked against what is to be learned now.

    Args:
        folder: ``BASE`` below the project's root.
        model: its name.
        windows: of the release to come.

    Returns:
        The net, or why there is none to go on from: no release yet, no such model in it, or one on floats.

    Raises:
        BaseError: the folder is damaged, or the release reads other features or means something else.
    """
    described = folder / "base.json"
    if not described.is_file():
        return f"there is no earlier release in {folder} (headland fleet base puts one there)"
    try:
        plain = json.loads(described.read_text())
        counter, sha256 = int(plain["counter"]), str(plain["bundle_sha256"])
        entry = plain["models"].get(model)
        _check_inputs(described, counter, plain, windows)
        if entry is None:
            return f"release {counter} has no model {model}"
        if entry["kind"] != "int8":
            return f"release {counter} ships {model} as {entry['kind']}, which has no scales to pin"
        _check_meaning(described, counter, model, entry, windows)
        return Base(counter, sha256, _read(folder / entry["file"], entry["sha256"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseError(f"{described}: damaged ({error!r}). {_FILL}") from None


def _check_inputs(described: Path, counter: int, plain: dict[str, Any], windows: Windows) -> None:
    ours = json.loads((windows.folder / "meta.json").read_text()).get("features_version", plain["features_version"])
    if plain["features_version"] != ours:
        theirs = f"release {counter} reads features of version {plain['features_version']}"
        raise BaseError(f"{described}: {theirs}, these windows are of version {ours}. {_WHOLE}")
    if tuple(plain["channels"]) != windows.channels:
        other = sorted(set(plain["channels"]) ^ set(windows.channels)) or ["their order"]
        raise BaseError(f"{described}: release {counter} reads other channels ({', '.join(other)}). {_WHOLE}")


def _check_meaning(described: Path, counter: int, model: str, entry: dict[str, Any], windows: Windows) -> None:
    if entry["window_days"] != windows.window_days:
        theirs = f"release {counter} sees {entry['window_days']} mornings in {model}, not {windows.window_days}"
        raise BaseError(f"{described}: {theirs}. {_WHOLE}")
    if entry["target"] != asdict(windows.target):
        raise BaseError(f"{described}: {model} of release {counter} estimates {entry['target']}. {_WHOLE}")


def _read(file: Path, sha256: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BaseError(f"{file}: cannot be read ({error.strerror}). {_FILL}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BaseError(f"{file}: is not the file that base.json names. {_FILL}")
    return data
