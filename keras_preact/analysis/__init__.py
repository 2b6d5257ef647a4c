"""What a net costs, what its units look like, and how signals and gradients go through them."""

from keras_preact.analysis.chain import Chain, ResidualUnit, take_apart
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
from keras_preact.analysis.gradient_flow import GradientFlow, draw_gradient_flow, gradient_flow
from keras_preact.analysis.lesions import scores_with_order, scores_without
from keras_preact.analysis.signal_propagation import (
    SignalPropagation,
    draw_signal_propagation,
    signal_propagation,
)
from keras_preact.analysis.unit_graphs import Node, UnitGraph, unit_graphs

__all__ = [
    "COSTS",
    "Chain",
    "Cost",
    "GradientFlow",
    "LayerCost",
    "NetCost",
    "Node",
    "ResidualUnit",
    "SignalPropagation",
    "StageCost",
    "UnitGraph",
    "UnknownLayerError",
    "Work",
    "draw_gradient_flow",
    "draw_signal_propagation",
    "draw_units",
    "gradient_flow",
    "model_cost",
    "scores_with_order",
    "scores_without",
    "signal_propagation",
    "take_apart",
    "unit_graphs",
]
