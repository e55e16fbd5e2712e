"""A verified update of a 1 MB bundle on a device that has looked before: CPU by part, beside a plain download.

``python -m benchmarks.update [--bundle FILE]`` prints JSON and writes ``metrics/bench/update.json``. Releases are made
of the season's bundle, filled up to 1 MB, and really signed; the device's side runs in its own environment with the
code of this checkout (``benchmarks/in_update.py``). The peer downloads the same files with urllib, hashes and flushes
them, and believes whatever came.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from headland_edge.bundle import MANIFEST, encode_bundle, open_bundle
from headland_edge.home import Settings, Updates, make
from headland_edge.trust import pin

from benchmarks.device import EDGE
from benchmarks.machine import describe
from tasks.durable import write_json
from tasks.evaluation.evaluate import bundle_file
from tasks.fleet.assign import set_assignments
from tasks.fleet.keys import ROLE_KEYS, create, keyring
from tasks.fleet.publish import PATCHES_FROM, publish
from tasks.fleet.repository import Repository
from tasks.params import load

RUNS = 9
SIZE_BYTES = 1_000_000


def release(bundle: Path, counter: int, seed: int | None) -> bytes:
    """The bundle under another counter, with noise of ``seed`` that makes it 1 MB; without a seed, without noise."""
    with tarfile.open(bundle) as tar:
        file = tar.extractfile(MANIFEST)
        assert file is not None
        manifest = json.loads(file.read())
    manifest["release"]["counter"] = counter
    members = open_bundle(bundle).members
    if seed is not None:
        members["noise.bin"] = random.Random(seed).randbytes(max(0, SIZE_BYTES - bundle.stat().st_size))
    return encode_bundle(manifest, members)


def publish_all(fleet: Path, bundle: Path, states: Path) -> list[str]:
    """Publish and assign one release after the other, and keep the repository as it was after each."""
    keys = keyring(fleet / "keys", {})
    create(fleet, keys)
    counter = open_bundle(bundle).manifest.release.counter
    kinds = ["first", *(["whole"] * (RUNS + 1)), *(["patch"] * (RUNS + 1))]
    file = fleet / "release.tar"
    for number, kind in enumerate(kinds):
        # Patches lead from the latest releases: others in between leave the device's own without one.
        for seed in [None] * PATCHES_FROM * (kind == "whole") + [number if kind == "whole" else RUNS + 1]:
            counter += 1
            file.write_bytes(release(bundle, counter, seed))
            done = publish(fleet, file, keys)
        set_assignments(fleet, keys, base=done.sha256)
        shutil.copytree(fleet / "repository", states / str(number))
        shutil.copyfile(file, states / str(number) / "latest.tar")  # for the peer
    return kinds


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Static files on loopback; yields their address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def device(root: Path, fleet: Path) -> None:
    """A device's folder with pinned roots, made anew."""
    home = make(root, Settings("bench-1", "maize", Updates(daily_bytes=10**9)))
    for family in ROLE_KEYS:
        pin(home.updates, family, Repository(fleet, family).roots()[0].read_bytes())


def measure(mode: str, home: Path, states: str, kinds: list[str]) -> dict[str, Any]:
    """One process in the device's environment that takes every release in turn."""
    code = Path(__file__).resolve().parents[1] / "edge"
    here = Path(__file__).with_name("in_update.py")
    environment = {**os.environ, "PYTHONPATH": str(code), "OPENBLAS_NUM_THREADS": "1"}  # as the command sets it
    words = [str(EDGE), str(here), mode, str(home), states, *kinds]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure and print; 1 if there is no bundle yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="made into releases; without it, the season's")
    bundle = parser.parse_args().bundle or bundle_file(load())
    if not bundle.exists() or not EDGE.exists():
        print(f"error: {bundle if EDGE.exists() else EDGE} is missing; run `make demo` first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        kinds = publish_all(here / "fleet", bundle, here / "states")
        found: dict[str, Any] = {"machine": describe(), "runs": RUNS, "bundle_kib": round(SIZE_BYTES / 1024, 1)}
        with serving(here / "states") as url:
            for name, mode, states in [
                ("from_folder", "quick", str(here / "states")),
                ("over_http", "quick", url),
                ("with_trial", "trial", str(here / "states")),
                ("peer_download", "peer", url),
                ("as_command", "command", str(here / "states")),
            ]:
                device(here / name, here / "fleet")
                found[name] = measure(mode, here / name, states, kinds)
    write_json(Path("metrics/bench/update.json"), found)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
