from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def shown() -> np.ndarray:
    """Windows of 6 channels and 20 days, as nets are shown them."""
    return np.random.default_rng(8).normal(0.3, 1.5, (128, 6, 20)).astype(np.float32)
