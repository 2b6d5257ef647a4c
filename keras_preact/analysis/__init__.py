"""What a net costs, and what its units look like."""

from keras_preact.analysis.cost import (
    COSTS,
    Cost,
    LayerCost,
    NetCost,
    StageCost,
    UnknownLayerError,
    Work,
    model_cost,
)

__all__ = [
    "COSTS",
    "Cost",
    "LayerCost",
    "NetCost",
    "StageCost",
    "UnknownLayerError",
    "Work",
    "model_cost",
]
