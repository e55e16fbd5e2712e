"""A bundle with real, tiny nets, and made-up field histories: what the tests of the device share."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from headland_edge.bundle import Bundle, open_bundle, write_bundle
from headland_edge.features import FEATURES, FEATURES_VERSION
from headland_edge.home import Home, Local, Settings, UplinkSettings, make
from headland_edge.records import COLUMN_INFO, COLUMNS, Records
from headland_edge.rules import FourStageRule, SplitRule
from headland_edge.runtime import Session
from headland_edge.slots import Slots
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

WINDOW_DAYS = 16
IRRIGATION = FourStageRule((0.3, 0.4, 0.5, 0.6), (25, 65, 107, 140), 30.0, 5.0)
IRRIGATION_BY_SENSOR = FourStageRule((0.9, 0.9, 0.9, 0.9), (25, 65, 107, 140), 20.0, 5.0)
NITROGEN = SplitRule((7.0, 480.0, 704.0), (100.0, 60.0, 50.0), (0.5, 0.5, 0.5), 120.0)
NITROGEN_BY_SENSOR = SplitRule((7.0, 480.0, 704.0), (90.0, 50.0, 40.0), (1.0, 1.0, 1.0), 120.0)
TARGETS = {
    "irrigation": ("depletion_frac", "1", 1.0, ["maize"]),
    "nitrogen": ("n_supply_kg_ha", "kg/ha", 100.0, ["wheat"]),
    "yield": ("yield_t_ha", "t/ha", 10.0, ["maize", "wheat"]),
}


def conv_net(
    seed: int = 0, quantiles: tuple[float, float, float] | None = None, fails_on_day: int | None = None
) -> bytes:
    """ONNX bytes of a convolution, a pooling and a linear layer.

    ``quantiles`` makes the output constant. On the morning ``fails_on_day`` days after sowing the net does not run.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(0, 0.2, (4, len(FEATURES), 3)),
        "linear": rng.normal(0, 0.5, (4, 3)) if quantiles is None else np.zeros((4, 3)),
        "bias": np.array(quantiles or (0.3, 0.5, 0.7)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["window", "kernel"], ["convolved"], pads=[1, 1]),
            helper.make_node("Relu", ["convolved"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "linear", "bias"], ["linear_out"]),
            *_failing_nodes(),
        ],
        "tiny",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, ["n", len(FEATURES), WINDOW_DAYS])],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["n", 3])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()),
            *_failing_weights(-1000.0 if fails_on_day is None else fails_on_day),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _failing_nodes() -> list[Any]:
    """Nodes that look into a row of one, at the second place on one day."""
    return [
        helper.make_node("Gather", ["window", "days_channel"], ["days_row"], axis=1),
        helper.make_node("Gather", ["days_row", "last_morning"], ["days_scaled"], axis=1),
        helper.make_node("Mul", ["days_scaled", "days_scale"], ["days"]),
        helper.make_node("Sub", ["days", "bad_day"], ["days_off"]),
        helper.make_node("Abs", ["days_off"], ["distance"]),
        helper.make_node("Less", ["distance", "half"], ["is_bad_day"]),
        helper.make_node("Cast", ["is_bad_day"], ["place_of_each"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["place_of_each"], ["place"], keepdims=0),
        helper.make_node("Gather", ["row_of_one", "place"], ["nothing"], axis=0),
        helper.make_node("Add", ["linear_out", "nothing"], ["quantiles"]),
    ]


def _failing_weights(day: float) -> list[Any]:
    channel = [feature.name for feature in FEATURES].index("days_after_sowing")
    numbers = {"days_scale": FEATURES[channel].scale, "bad_day": day, "half": 0.5}
    return [
        numpy_helper.from_array(np.array(channel), "days_channel"),
        numpy_helper.from_array(np.array(WINDOW_DAYS - 1), "last_morning"),
        numpy_helper.from_array(np.zeros(1, np.float32), "row_of_one"),
        *(numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()),
    ]


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def parts(
    nets: Mapping[str, bytes] | None = None, *, counter: int = 2009000
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and members of a bundle of ``nets``, by default random convolutions."""
    nets = nets or {name: conv_net(seed) for seed, name in enumerate(TARGETS)}
    members = {"MODEL_CARD.md": b"# A card\n", "mlbom.cdx.json": b"{}\n"}
    models = {}
    for name, net in nets.items():
        target, unit, scale, crops = TARGETS[name]
        inputs = np.random.default_rng(7).normal(0, 1, (3, len(FEATURES), WINDOW_DAYS)).astype(np.float32)
        members[f"models/{name}.onnx"] = net
        members[f"golden/{name}.inputs.npy"] = npy(inputs)
        members[f"golden/{name}.outputs.npy"] = npy(Session(net).run(inputs))
        models[name] = {
            "file": f"models/{name}.onnx",
            "crops": crops,
            "window_days": WINDOW_DAYS,
            "target": {"name": target, "unit": unit, "offset": 0.0, "scale": scale},
            "golden": {
                "inputs": f"golden/{name}.inputs.npy",
                "outputs": f"golden/{name}.outputs.npy",
                "tolerance": 1e-4,
            },
            "kind": "fp32",
        }
    return manifest_of(models, counter), members


def manifest_of(models: dict[str, Any], counter: int = 2009000) -> dict[str, Any]:
    """A manifest's plain form without files."""
    return {
        "schema_version": 1,
        "release": {"counter": counter, "as_of": 2009},
        "hardware": {"min_ram_mb": 256, "arch": ["x86_64", "aarch64"]},
        "features_version": FEATURES_VERSION,
        "inputs": [{"name": f.name, "unit": f.unit, "scale": f.scale} for f in FEATURES],
        "models": models,
        "policy": {
            "maize": {
                "rule": IRRIGATION.to_dict(),
                "sensor_rule": IRRIGATION_BY_SENSOR.to_dict(),
                "fixed_rule": IRRIGATION_BY_SENSOR.to_dict(),
            },
            "wheat": {
                "rule": NITROGEN.to_dict(),
                "sensor_rule": NITROGEN_BY_SENSOR.to_dict(),
                "fixed_rule": NITROGEN.to_dict(),
            },
        },
        "budgets": {"latency_p99_ms": 500.0, "peak_rss_mb": 500.0},
        "lineage": {"git_commit": "0" * 40},
    }


def make_bundle(path: Path, nets: Mapping[str, bytes] | None = None, counter: int = 2009000) -> Bundle:
    """Write and open a bundle."""
    manifest, members = parts(nets)
    manifest["release"]["counter"] = counter
    write_bundle(path, manifest, members)
    return open_bundle(path)


def season(crop: str, mornings: int, **columns: float | np.ndarray[Any, Any]) -> Records:
    """A history with everything measured: mild, dry weather unless ``columns`` say otherwise."""
    usual = {
        "rain_mm": 0.0, "et0_mm": 4.0, "tmin_c": 10.0, "tmax_c": 20.0, "irrigation_mm": 0.0, "nitrogen_kg_ha": 0.0,
        "depletion_frac": 0.5, "taw_mm": 100.0, "soil_mineral_n_kg_ha": 40.0, "lai": 1.0,
    }  # fmt: skip
    values = np.empty((mornings, len(COLUMNS)))
    for name, value in {**usual, **columns}.items():
        values[:, COLUMNS.index(name)] = value
    return Records(crop, date(2009, 4, 20), values)


def lost(records: Records, column: str, last: int) -> Records:
    """The same records with the latest ``last`` readings of ``column`` missing."""
    values = records.values.copy()
    values[len(values) - last :, COLUMNS.index(column)] = np.nan
    return Records(records.crop, records.sowing_date, values)


@st.composite
def histories(draw: st.DrawFn, *, wild: bool = False, max_mornings: int = 60) -> Records:
    """Random histories with random outages; ``wild`` adds impossible values, infinities included."""
    mornings = draw(st.integers(1, max_mornings))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = np.array([info.low for info in COLUMN_INFO.values()])
    high = np.array([info.high for info in COLUMN_INFO.values()])
    values = rng.uniform(low, high, (mornings, len(COLUMNS)))
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.95]))] = np.nan
    for column in draw(st.lists(st.integers(0, len(COLUMNS) - 1), max_size=4)):
        start = draw(st.integers(0, mornings - 1))
        values[start:, column] = np.nan
    if wild:
        faulty = rng.random(values.shape) < 0.1
        values[faulty] = rng.choice([np.inf, -np.inf, 1e308, -1e308, -9999.0, 9999.0], int(faulty.sum()))
    return Records(draw(st.sampled_from(["maize", "wheat"])), date(2009, 4, 20), values)


def constant_nets(median: float, fails_on_day: int | None = None) -> dict[str, bytes]:
    """Nets that always say the same, ``median`` of scale in the middle; their irrigation does not run on one day."""
    quantiles = (median - 0.1, median, median + 0.1)
    nets = {name: conv_net(quantiles=quantiles) for name in TARGETS}
    return nets | {"irrigation": conv_net(quantiles=quantiles, fails_on_day=fails_on_day)}


def put_release(home: Home, bundle: Bundle, *, on_trial: bool = False) -> None:
    """Have ``bundle`` in a slot of a device, confirmed unless ``on_trial``, without asking what it is worth."""
    data = bundle.path.read_bytes()
    slots = Slots(home.slots)
    slots.begin_trial(slots.install(data, bundle.sha256, bundle.manifest.release.counter))
    if not on_trial:
        slots.confirm()


def make_home(root: Path, bundle: Bundle | None = None, crop: str = "maize", **changes: Any) -> Home:
    """A device's folder that looks often and has a free port; ``bundle`` is its confirmed release."""
    local = Local(http_port=free_port(), poll_s=0.05, probation_advices=3)
    settings = Settings("field-1", crop, uplink=UplinkSettings(every_s=0.2), local=local)
    home = make(root, replace(settings, **changes))
    if bundle is not None:
        put_release(home, bundle)
    return home


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
