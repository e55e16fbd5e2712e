"""Arrays as members of a bundle."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray


def npy(array: NDArray[np.float32]) -> bytes:
    """The array as an .npy file's bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
