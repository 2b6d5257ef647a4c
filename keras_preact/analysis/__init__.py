"""Analyses of nets: costs, pictures, signals and gradients, class activations, calibration."""

from keras_preact.analysis.calibration import (
    Reliability,
    draw_reliability,
    fit_temperature,
    reliability,
)
from keras_preact.analysis.chain import Chain, ResidualUnit, take_apart
from keras_preact.analysis.class_activation import draw_class_activation, grad_cam, occlusion
from keras_preact.analysis.costs.cost import (
    COSTS,
    Cost,
    LayerCost,
    NetCost,
    StageCost,
    UnknownLayerError,
    Work,
    model_cost,
)
from keras_preact.analysis.costs.latency import LatencyTable
from keras_preact.analysis.costs.tables import CostTable, architecture_cost
from keras_preact.analysis.effective_depth import (
    PathGradients,
    draw_path_gradients,
    path_gradients,
)
from keras_preact.analysis.gradient_flow import GradientFlow, draw_gradient_flow, gradient_flow
from keras_preact.analysis.gradient_history import GradientHistory, draw_gradient_history
from keras_preact.analysis.lesions import (
    LesionStudy,
    draw_lesion_study,
    lesion_study,
    scores_with_order,
    scores_without,
)
from keras_preact.analysis.loss_landscape import (
    LossLandscape,
    draw_loss_landscape,
    filter_normalized_direction,
    loss_landscape,
)
from keras_preact.analysis.pictures.drawing import draw_units
from keras_preact.analysis.pictures.unit_graphs import Node, UnitGraph, unit_graphs
from keras_preact.analysis.sharpness import Sharpness, sharpness
from keras_preact.analysis.signal_propagation import (
    SignalPropagation,
    draw_signal_propagation,
    signal_propagation,
)

__all__ = [
    "COSTS",
    "Chain",
    "Cost",
    "CostTable",
    "GradientFlow",
    "GradientHistory",
    "LatencyTable",
    "LayerCost",
    "LesionStudy",
    "LossLandscape",
    "NetCost",
    "Node",
    "PathGradients",
    "Reliability",
    "ResidualUnit",
    "Sharpness",
    "SignalPropagation",
    "StageCost",
    "UnitGraph",
    "UnknownLayerError",
    "Work",
    "architecture_cost",
    "draw_class_activation",
    "draw_gradient_flow",
    "draw_gradient_history",
    "draw_lesion_study",
    "draw_loss_landscape",
    "draw_path_gradients",
    "draw_reliability",
    "draw_signal_propagation",
    "draw_units",
    "filter_normalized_direction",
    "fit_temperature",
    "grad_cam",
    "gradient_flow",
    "lesion_study",
    "loss_landscape",
    "model_cost",
    "occlusion",
    "path_gradients",
    "reliability",
    "scores_with_order",
    "scores_without",
    "sharpness",
    "signal_propagation",
    "take_apart",
    "unit_graphs",
]
