"""Golden outputs: does this machine compute what the cloud's machine computed?"""

from __future__ import annotations

import numpy as np

from headland_edge.bundle import Bundle, BundleError
from headland_edge.features import FEATURES
from headland_edge.runtime import ModelError, Session


def verify(bundle: Bundle, name: str) -> float:
    """Run model ``name`` on its golden inputs, one window at a time as for advice.

    Returns:
        Largest absolute difference from the expected outputs, in scaled units.

    Raises:
        BundleError: the model does not load or run, or differs by more than its tolerance.
    """
    model = bundle.manifest.models[name]
    inputs, expected = bundle.array(model.golden.inputs), bundle.array(model.golden.outputs)
    window_shape = (len(FEATURES), model.window_days)
    if inputs.shape[1:] != window_shape or len(inputs) == 0 or expected.shape != (len(inputs), 3):
        raise BundleError(
            f"{bundle.path}, member {model.golden.inputs}: golden arrays of shapes {inputs.shape} and {expected.shape} "
            f"do not fit windows of {window_shape}"
        )
    try:
        session = Session(bundle.model_bytes(name), model.file)
        outputs = np.concatenate([session.run(window[np.newaxis]) for window in inputs])
    except ModelError as error:
        raise BundleError(f"{bundle.path}, member {error}") from None
    difference = float(np.abs(outputs - expected).max())
    if not difference <= model.golden.tolerance:
        raise BundleError(
            f"{bundle.path}, member {model.file}: golden outputs differ by {difference:g}, "
            f"tolerance {model.golden.tolerance:g}; this machine cannot run this model"
        )
    return difference
