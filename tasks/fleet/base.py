"""Puts an earlier release into ``data/base/release``, for the next one to learn on from.

Everything needed lies in the bundle itself: the int8 nets with their scales, and what they read and mean. An effect
like any other: the same bundle gives the same folder, whole or not at all, however often it is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headland_edge.bundle import Bundle, BundleError, decode_bundle, open_bundle
from headland_edge.trust import bundle_name

from tasks.compression.base import BASE
from tasks.durable import replacing_dir, write_bytes, write_json
from tasks.fleet.publish import released
from tasks.fleet.repository import Repository
from tasks.registry.register import UnfitBundleError


class NoBaseError(Exception):
    """There is no earlier release to base one on; the message says what to do."""


@dataclass(frozen=True)
class Filled:
    """What lies in ``data/base/release`` now.

    Args:
        folder: where.
        counter: of the release.
        sha256: of its bundle.
        models: that can be learned on from; the others ship on floats.
    """

    folder: Path
    counter: int
    sha256: str
    models: tuple[str, ...]


def fill_base(root: Path, bundle: Path) -> Filled:
    """Base the project's next release on the bundle in a file.

    Args:
        root: the project.
        bundle: file of a bundle.

    Raises:
        UnfitBundleError: it is damaged, or of features that this project no longer makes.
    """
    try:
        return _fill(root, open_bundle(bundle))
    except BundleError as error:
        raise UnfitBundleError(f"{error}. Nothing was put into {BASE}.") from None


def fill_base_from_fleet(root: Path, fleet: Path, below: int) -> Filled:
    """Base the project's next release on the latest one published.

    Args:
        root: the project.
        fleet: the fleet's folder.
        below: release counter of the release to come.

    Raises:
        NoBaseError: nothing is published below it.
        UnfitBundleError: it is damaged.
        FleetError: the repository cannot be read.
    """
    earlier = {sha256: told["counter"] for sha256, told in released(fleet).items() if told["counter"] < below}
    if not earlier:
        raise NoBaseError(
            f"Nothing is published below release {below} in {fleet}. Name a bundle: headland fleet base --bundle FILE"
        )
    latest = max(earlier, key=earlier.__getitem__)
    data = Repository(fleet, "releases").content(bundle_name(latest))
    try:
        return _fill(root, decode_bundle(data, Path(bundle_name(latest))))
    except BundleError as error:
        raise UnfitBundleError(f"{error}. Nothing was put into {BASE}.") from None


def _fill(root: Path, bundle: Bundle) -> Filled:
    manifest, folder = bundle.manifest, root / BASE
    with replacing_dir(folder) as aside:
        for name in manifest.models:
            write_bytes(aside / f"{name}.onnx", bundle.model_bytes(name))
        write_json(aside / "base.json", _description(bundle))
    integers = tuple(name for name, model in manifest.models.items() if model.kind == "int8")
    return Filled(folder, manifest.release.counter, bundle.sha256, integers)


def _description(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "counter": manifest.release.counter,
        "as_of": manifest.release.as_of,
        "bundle_sha256": bundle.sha256,
        "features_version": manifest.features_version,
        "channels": [channel.name for channel in manifest.inputs],
        "models": {
            name: {
                "file": f"{name}.onnx",
                "sha256": model.sha256,
                "kind": model.kind,
                "window_days": model.window_days,
                "target": {key: getattr(model.target, key) for key in ("name", "unit", "offset", "scale")},
            }
            for name, model in manifest.models.items()
        },
    }
