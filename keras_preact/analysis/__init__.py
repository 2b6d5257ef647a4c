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
from keras_preact.analysis.drawing import draw_units
from keras_preact.analysis.latency import LatencyTable
from keras_preact.analysis.tables import CostTable, architecture_cost
from keras_preact.analysis.unit_graphs import Node, UnitGraph, unit_graphs

__all__ = [
    "COSTS",
    "Cost",
    "CostTable",
    "LatencyTable",
    "LayerCost",
    "NetCost",
    "Node",
    "StageCost",
    "UnitGraph",
    "UnknownLayerError",
    "Work",
    "architecture_cost",
    "draw_units",
    "model_cost",
    "unit_graphs",
]
