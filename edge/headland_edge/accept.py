"""Whether a release may run here: everything that can be known before it is trusted with a field.

In this order, the cheap before the dear: size, hash, form, hardware, counter, and in a process of its own
(``trial_run``) golden outputs, latency and memory on this very device.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headland_edge.bundle import MAX_TOTAL_BYTES, Bundle, BundleError, decode_bundle

CODES = ("size", "hash", "format", "hardware", "downgrade", "golden", "slow", "memory", "crash")
TIMEOUT_S = 60.0
_MEMORY_HEADROOM_BYTES = 2 * 1024**3
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}
_SAID_BYTES = 65536


class NotAccepted(Exception):  # noqa: N818  # a refusal is an answer, not an error of the program
    """The release does not run here; ``code`` is one of ``CODES``, the text says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Device:
    """What a release has to fit.

    Args:
        arch: machine, as ``x86_64`` or ``aarch64``.
        ram_mb: memory of the machine, MB.
        floor: release counters below it are refused.
    """

    arch: str
    ram_mb: float
    floor: int = 0

    @classmethod
    def here(cls, floor: int = 0) -> Device:
        """This machine."""
        machine = platform.machine().lower()
        ram_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
        return cls(_ARCH.get(machine, machine), ram_mb, floor)


@dataclass(frozen=True)
class Accepted:
    """A release that may be installed, with what it did on this device."""

    bundle: Bundle
    latency_p99_ms: float
    peak_rss_mb: float


def accept(data: bytes, sha256: str, device: Device, timeout_s: float = TIMEOUT_S) -> Accepted:
    """Check a bundle on this device.

    Args:
        data: the bundle's bytes.
        sha256: its hash, as signed.
        device: what it has to fit.
        timeout_s: a trial that takes longer counts as crashed.

    Raises:
        NotAccepted: with the first thing that was wrong.
        OSError: the bundle could not be written aside for the trial.
    """
    bundle = _whole(data, sha256)
    _fits(bundle, device)
    with tempfile.TemporaryDirectory(prefix="headland-trial-") as folder:
        path = Path(folder) / "bundle.tar"
        path.write_bytes(data)
        found = _tried(path, timeout_s)
    budgets = bundle.manifest.budgets
    for name, (difference, tolerance) in sorted(found["golden"].items()):
        if not difference <= tolerance:
            raise NotAccepted("golden", f"{name}: differs by {difference:g} from its golden outputs, not {tolerance:g}")
    latency, memory = float(found["latency_p99_ms"]), float(found["peak_rss_mb"])
    if not latency <= budgets.latency_p99_ms:
        raise NotAccepted(
            "slow",
            f"advice takes {latency:.2f} ms of processor time (p99), the budget is {budgets.latency_p99_ms:g} ms",
        )
    if not memory <= budgets.peak_rss_mb:
        raise NotAccepted("memory", f"it takes {memory:.0f} MB, the budget is {budgets.peak_rss_mb:g} MB")
    return Accepted(bundle, latency, memory)


def _whole(data: bytes, sha256: str) -> Bundle:
    if len(data) > MAX_TOTAL_BYTES:
        raise NotAccepted("size", f"{len(data)} bytes, at most {MAX_TOTAL_BYTES} are taken")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise NotAccepted("hash", "its hash is not the one that was signed")
    try:
        return decode_bundle(data, Path("release"))
    except BundleError as error:
        raise NotAccepted("format", str(error)) from None


def _fits(bundle: Bundle, device: Device) -> None:
    hardware, counter = bundle.manifest.hardware, bundle.manifest.release.counter
    if device.arch not in hardware.arch:
        raise NotAccepted("hardware", f"made for {', '.join(hardware.arch)}, this device is {device.arch}")
    if device.ram_mb < hardware.min_ram_mb:
        raise NotAccepted("hardware", f"needs {hardware.min_ram_mb} MB of memory, here are {device.ram_mb:.0f}")
    if counter < device.floor:
        raise NotAccepted("downgrade", f"release {counter} lies below {device.floor}, the lowest still allowed")


def _tried(path: Path, timeout_s: float) -> dict[str, Any]:
    """What the trial process measured; it may crash, hang or grow, and this one goes on."""
    command = [sys.executable, "-m", "headland_edge.trial_run", str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, preexec_fn=_bounded, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotAccepted("crash", f"its trial was not done after {timeout_s:g} s") from None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == 7:
        raise NotAccepted("golden", said[-1] if said else "its models do not run as they should")
    try:
        found = json.loads(done.stdout[:_SAID_BYTES])
        return {key: found[key] for key in ("golden", "latency_p99_ms", "peak_rss_mb")}
    except (ValueError, KeyError, TypeError):
        why = f": {said[-1][:200]}" if said else ""
        raise NotAccepted("crash", f"its trial ended with {done.returncode}{why}") from None


def _bounded() -> None:
    """Nothing the trial does may take the machine's memory away from the adviser."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = _MEMORY_HEADROOM_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_HEADROOM_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
