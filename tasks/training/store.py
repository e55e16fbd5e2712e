"""A net on disk: ``net.safetensors`` (weights, no pickle) beside ``net.json`` (architecture and what it means)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from tasks.durable import replacing_dir, write_bytes, write_json
from tasks.training.nets import Architecture, build


class NetError(Exception):
    """No usable net in a folder; the message names the file."""


def save_net(folder: Path, net: nn.Sequential, architecture: Architecture, meaning: dict[str, Any]) -> None:
    """Write a net whole or not at all; equal weights give equal bytes.

    Args:
        folder: replaced as a whole.
        net: built from ``architecture``.
        architecture: its shape.
        meaning: more for ``net.json``: target, channels, ...
    """
    weights = {name: tensor.contiguous() for name, tensor in sorted(net.state_dict().items())}
    with replacing_dir(folder) as aside:
        write_bytes(aside / "net.safetensors", save(weights))
        write_json(aside / "net.json", {**meaning, "architecture": architecture.as_dict()})


def load_net(folder: Path) -> tuple[nn.Sequential, Architecture, dict[str, Any]]:
    """The net, its architecture and all of ``net.json``. Raises NetError naming the file that is bad or absent."""
    try:
        plain = json.loads((folder / "net.json").read_text())
        architecture = Architecture.from_dict(plain["architecture"])
        net = build(architecture)
        net.load_state_dict(load((folder / "net.safetensors").read_bytes()))
    except FileNotFoundError as error:
        raise NetError(f"{error.filename}: no such file. Train first: dvc repro train@{folder.parent.name}") from None
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise NetError(
            f"{folder}: no usable net ({error}). Train again: dvc repro -f train@{folder.parent.name}"
        ) from None
    return net.eval(), architecture, plain
