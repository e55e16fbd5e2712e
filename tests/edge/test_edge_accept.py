from __future__ import annotations

import hashlib
import os
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge import trial_run
from headland_edge.accept import Accepted, Device, NotAccepted, accept
from headland_edge.bundle import encode_bundle
from headland_edge.features import FEATURES
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge.small_bundle import WINDOW_DAYS, npy, parts

HERE = Device.here()


def encoded(**changes: Any) -> bytes:
    manifest, members = parts()
    return encode_bundle({**manifest, "budgets": {"latency_p99_ms": 500.0, "peak_rss_mb": 500.0}, **changes}, members)


@pytest.fixture(scope="module")
def good() -> bytes:
    return encoded()


def tried(data: bytes, device: Device = HERE, timeout_s: float = 60.0) -> Accepted:
    return accept(data, hashlib.sha256(data).hexdigest(), device, timeout_s)


def refusal(data: bytes, device: Device = HERE, timeout_s: float = 60.0) -> NotAccepted:
    with pytest.raises(NotAccepted) as found:
        tried(data, device, timeout_s)
    return found.value


def test_a_good_release_is_accepted_with_what_it_took(good: bytes) -> None:
    found = tried(good)
    assert found.bundle.manifest.release.counter == 2009000
    assert 0 < found.latency_p99_ms < 500
    assert 20 < found.peak_rss_mb < 500


def test_another_hash_than_the_signed_one_is_refused(good: bytes) -> None:
    with pytest.raises(NotAccepted) as found:
        accept(good, "0" * 64, HERE)
    assert found.value.code == "hash"


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_though_its_hash_were_signed(at: int, bit: int) -> None:
    data = bytearray(encoded())
    data[at % len(data)] ^= 1 << bit
    assert refusal(bytes(data)).code == "format"


@pytest.mark.parametrize(
    ("device", "code", "said"),
    [
        (replace(HERE, arch="riscv64"), "hardware", "riscv64"),
        (replace(HERE, ram_mb=100.0), "hardware", "100"),
        (replace(HERE, floor=2009001), "downgrade", "2009001"),
    ],
)
def test_a_device_it_does_not_fit_refuses_it(good: bytes, device: Device, code: str, said: str) -> None:
    found = refusal(good, device)
    assert found.code == code
    assert said in str(found)


def test_the_floor_itself_is_allowed(good: bytes) -> None:
    assert tried(good, replace(HERE, floor=2009000)).bundle.manifest.release.counter == 2009000


def test_a_model_that_loads_but_is_wrong_on_golden_inputs_is_refused() -> None:
    manifest, members = parts()
    members["golden/yield.outputs.npy"] = npy(np.full((3, 3), 9.0, np.float32))
    found = refusal(encode_bundle(manifest, members))
    assert found.code == "golden"
    assert "yield" in str(found)


def test_a_model_that_does_not_load_is_refused() -> None:
    manifest, members = parts()
    members["models/irrigation.onnx"] = b"no net"
    assert refusal(encode_bundle(manifest, members)).code == "golden"


def test_golden_inputs_of_another_shape_are_refused() -> None:
    manifest, members = parts()
    members["golden/yield.inputs.npy"] = npy(np.zeros((3, len(FEATURES), WINDOW_DAYS + 1), np.float32))
    assert refusal(encode_bundle(manifest, members)).code == "golden"


def test_a_slow_model_is_refused() -> None:
    found = refusal(encoded(budgets={"latency_p99_ms": 1e-6, "peak_rss_mb": 500.0}))
    assert found.code == "slow"
    assert "1e-06" in str(found)


@pytest.mark.parametrize(
    ("took_ms", "told_ms", "rounds"),
    [([0.7], 0.7, 1), ([2.9, 2.4, 0.8], 0.8, 3), ([3.0, 2.9, 3.1, 2.8, 3.0], 2.8, 5)],
    ids=["quick", "disturbed twice", "slow itself"],
)
def test_what_others_do_on_the_device_is_not_held_against_a_release(
    monkeypatch: pytest.MonkeyPatch, took_ms: list[float], told_ms: float, rounds: int
) -> None:
    monkeypatch.setattr(trial_run, "_PAUSE_S", 0.0)
    left = list(took_ms)
    assert trial_run.lowest_ms(lambda: left.pop(0), 2.0) == told_ms
    assert len(took_ms) - len(left) == rounds


def test_a_release_that_is_very_slow_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_run, "_PATIENCE_S", -1.0)
    left = [100.0, 1.0]
    assert trial_run.lowest_ms(lambda: left.pop(0), 2.0) == 100.0
    assert left == [1.0]


def test_a_hungry_model_is_refused() -> None:
    assert refusal(encoded(budgets={"latency_p99_ms": 500.0, "peak_rss_mb": 1.0})).code == "memory"


# What an interpreter raises while it starts it only prints, so that this one has to leave by itself.
EATS = """exec("try: bytearray(8 * 1024**3)\\nexcept MemoryError: sys.stderr.write('MemoryError'); os._exit(1)")"""


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os.kill(os.getpid(), 11)", "-11"),
        ("time.sleep(600)", "not done"),
        (EATS, "MemoryError"),
        ("print('{}', flush=True); os._exit(0)", "ended with 0"),
    ],
    ids=["crashes", "hangs", "eats memory", "says nothing"],
)
def test_a_trial_that_does_not_end_well_is_a_refusal_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bytes, does: str, said: str
) -> None:
    """A real process that misbehaves when its interpreter starts stands in for a runtime that a model brings down."""
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import os, sys, time
        if "headland_edge.trial_run" in " ".join(sys.orig_argv):
            {does}
        """)
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    found = refusal(good, timeout_s=3.0)
    assert found.code == "crash"
    assert said in str(found)
