"""A DVC project of four small stages in a folder of its own: the same shape as the real one, in a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[1]

PIPELINE = """
stages:
  weather:
    cmd: python weather.py
    deps: [weather.py, rain.txt]
    outs: [data/weather.txt]
  train:
    matrix:
      model: ${models}
    cmd: python train.py ${item.model}
    deps: [train.py, data/weather.txt]
    params: [seed]
    outs: ["data/models/${item.model}.txt"]
    metrics:
      - metrics/compress/${item.model}.json: {cache: false}
  bundle:
    cmd: python bundle.py ${as_of}
    deps: [bundle.py, data/models]
    params: [as_of]
    outs: [data/bundle]
"""

WEATHER = """
from pathlib import Path
print("reading the rain")
Path("data").mkdir(exist_ok=True)
Path("data/weather.txt").write_text(Path("rain.txt").read_text().strip())
"""

TRAIN = """
import json, sys
from pathlib import Path
model = sys.argv[1]
Path("data/models").mkdir(parents=True, exist_ok=True)
Path(f"data/models/{model}.txt").write_text(model + Path("data/weather.txt").read_text())
Path("metrics/compress").mkdir(parents=True, exist_ok=True)
row = {"metric": 0.5, "size_bytes": 1000, "latency_p50_ms": 0.1, "latency_p99_ms": 0.2}
Path(f"metrics/compress/{model}.json").write_text(json.dumps(
    {"metric_name": "pinball", "shipped": "int8", "fp32": row, "int8": {**row, "size_bytes": 300}}))
print("trained", model)
"""

BUNDLE = f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "edge")!r}]
from tests.toy import write_bundle
models = {{f"models/{{p.stem}}": p.read_bytes() for p in sorted(Path("data/models").glob("*.txt"))}}
Path("data/bundle").mkdir(parents=True, exist_ok=True)
write_bundle(Path(f"data/bundle/headland-{{sys.argv[1]}}.tar"), int(sys.argv[1]), models)
"""


def write_bundle(path: Path, as_of: int = 2009, members: dict[str, bytes] | None = None, *, counter: int = 1) -> Path:
    """Write a valid bundle whose one model is no net; the same arguments give the same bytes."""
    from headland_edge import bundle
    from headland_edge.features import FEATURES, FEATURES_VERSION
    from headland_edge.rules import FourStageRule

    rule = FourStageRule((0.5, 0.5, 0.5, 0.5), (30, 60, 90, 120), 25.0, 5.0).to_dict()
    model = {
        "file": "model",
        "crops": ["maize"],
        "window_days": 64,
        "target": {"name": "depletion_frac", "unit": "1", "offset": 0.0, "scale": 1.0},
        "golden": {"inputs": "model", "outputs": "model", "tolerance": 0.1},
        "kind": "int8",
    }
    manifest = {
        "schema_version": 1,
        "release": {"counter": counter, "as_of": as_of},
        "hardware": {"min_ram_mb": 64, "arch": ["x86_64"]},
        "features_version": FEATURES_VERSION,
        "inputs": [{"name": f.name, "unit": f.unit, "scale": f.scale} for f in FEATURES],
        "models": {"irrigation": model},
        "policy": {"maize": {"rule": rule, "sensor_rule": rule, "fixed_rule": rule}},
        "budgets": {"latency_p99_ms": 2.0, "peak_rss_mb": 80.0},
        "lineage": {"git_commit": "abc", "data": {"weather": "1f"}},
    }
    bundle.write_bundle(path, manifest, {"model": b"no net", **(members or {})})
    return path


def make_toy(folder: Path) -> Path:
    """Write the toy project into ``folder`` and return it; nothing has run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "weather.py": WEATHER,
        "train.py": TRAIN,
        "bundle.py": BUNDLE,
        "rain.txt": "3 0 12\n",
    }.items():
        (folder / name).write_text(text.lstrip())
    shutil.copy(REPOSITORY / "params.yaml", folder / "params.yaml")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    return folder


def set_stage(folder: Path, script: str, text: str) -> None:
    """Give a stage another program (``weather.py``, ``train.py``, ``bundle.py``)."""
    (folder / script).write_text(text)


def python_environment() -> dict[str, str]:
    """An environment in which ``python`` is this interpreter and finds this project, wherever it is started."""
    from tasks.stages import child_environment

    return {**child_environment(), "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "edge")])}


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run DVC by hand, as an engineer does, with this interpreter's ``python`` first on the path."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


SLEEPER = """
import os, subprocess, sys, time
from pathlib import Path
if {stubborn}:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen(["sleep", "600"], start_new_session={escaping})
Path("pids.new").write_text(f"{{os.getpid()}} {{other.pid}}")
Path("pids.new").rename("pids")
print("asleep", flush=True)
time.sleep(600)
"""


def set_sleeper(folder: Path, *, stubborn: bool = False, escaping: bool = False) -> None:
    """Make ``weather`` a stage that starts a process of its own and never ends by itself.

    ``stubborn`` ignores SIGTERM; ``escaping`` puts its own process into another session.
    """
    set_stage(folder, "weather.py", SLEEPER.format(stubborn=stubborn, escaping=escaping))


def sleeper_pids(folder: Path) -> list[int]:
    """Pids of the sleeping stage and its process, as soon as both live."""
    wait_until((folder / "pids").exists)
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Those of ``pids`` that live; a zombie doesn't."""
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def wait_until(condition: Callable[[], object], timeout_s: float = 90.0) -> None:
    """Wait for something that will happen; a test that waits in vain fails."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"never came true: {condition}")
        time.sleep(0.1)
