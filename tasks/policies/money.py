"""What a season earns, from the prices in params."""

from __future__ import annotations

import numpy as np

from tasks.crops.interface import Crop, FloatArray, Harvest
from tasks.params import Prices


def profit_usd_ha(crop: Crop, harvest: Harvest, prices: Prices) -> FloatArray:
    """Grain sold less water, nitrogen and fixed costs, USD/ha, for each field of the harvest."""
    if crop == "maize":
        return np.asarray(
            prices.maize_usd_t * harvest.yield_t_ha
            - prices.water_usd_ha_mm * harvest.irrigation_mm
            - prices.maize_fixed_usd_ha
        )
    return np.asarray(
        prices.wheat_usd_t * harvest.yield_t_ha
        - prices.nitrogen_usd_kg * harvest.nitrogen_kg_ha
        - prices.wheat_fixed_usd_ha
    )
