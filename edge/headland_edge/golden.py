"""Golden outputs: does this machine compute what the cloud's machine computed?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headland_edge.advantage import MAPS, inputs_for
from headland_edge.bundle import Bundle, BundleError
from headland_edge.features import FEATURES
from headland_edge.runtime import Float32Array, ModelError, Session


def verify(bundle: Bundle, name: str) -> tuple[float, float]:
    """Run model ``name`` on its golden inputs, one window at a time as for advice.

    Returns:
        Largest absolute difference from the expected outputs, and the tolerance, in scaled units.

    Raises:
        BundleError: the model does not load or run, or differs by more than its tolerance.
    """
    model = bundle.manifest.models[name]
    inputs, expected = bundle.array(model.golden.inputs), bundle.array(model.golden.outputs)
    window_shape = (len(FEATURES), model.window_days)
    if inputs.shape[1:] != window_shape or len(inputs) == 0 or expected.shape != (len(inputs), 3):
        raise _misfit(bundle, model.golden.inputs, inputs, expected, f"windows of {window_shape}")
    difference = _difference(bundle, lambda: Session(bundle.model_bytes(name), model.file), inputs, expected)
    return _within(bundle, model.file, difference, model.golden.tolerance)


def verify_advantage(bundle: Bundle, crop: str) -> tuple[float, float]:
    """Run the advantage net of ``crop`` on its golden inputs, one morning at a time.

    Returns:
        Largest absolute difference from the expected gains, and the tolerance, USD/ha.

    Raises:
        BundleError: as for ``verify``; KeyError: the bundle has no such net.
    """
    net = bundle.manifest.policy[crop].advantage
    if net is None:
        raise KeyError(crop)
    inputs, expected = bundle.array(net.golden.inputs), bundle.array(net.golden.outputs)
    shape = (len(inputs_for(crop)), 1)
    if inputs.shape[1:] != shape or len(inputs) == 0 or expected.shape != (len(inputs), len(net.belief.doses)):
        raise _misfit(bundle, net.golden.inputs, inputs, expected, f"inputs of {shape}")
    difference = _difference(
        bundle, lambda: Session(bundle.members[net.file], net.file, MAPS, len(net.belief.doses)), inputs, expected
    )
    return _within(bundle, net.file, difference, net.golden.tolerance)


def _misfit(bundle: Bundle, member: str, inputs: Float32Array, expected: Float32Array, form: str) -> BundleError:
    found = f"golden arrays of shapes {inputs.shape} and {expected.shape}"
    return BundleError(f"{bundle.path}, member {member}: {found} do not fit {form}")


def _difference(bundle: Bundle, opened: Callable[[], Session], inputs: Float32Array, expected: Float32Array) -> float:
    try:
        session = opened()
        outputs = np.concatenate([session.run(window[np.newaxis]) for window in inputs])
    except ModelError as error:
        raise BundleError(f"{bundle.path}, member {error}") from None
    return float(np.abs(outputs - expected).max())


def _within(bundle: Bundle, file: str, difference: float, tolerance: float) -> tuple[float, float]:
    if not difference <= tolerance:
        raise BundleError(
            f"{bundle.path}, member {file}: golden outputs differ by {difference:g}, "
            f"tolerance {tolerance:g}; this machine cannot run this model"
        )
    return difference, tolerance
