"""Pre-activation residual networks for Keras."""

from keras_preact import layers, preprocessing, transforms, weights
from keras_preact.applications import (
    BUILDERS,
    PreActResNet,
    PreActResNet18,
    PreActResNet20,
    PreActResNet34,
    PreActResNet50,
    PreActResNet56,
    PreActResNet101,
    PreActResNet110,
    PreActResNet152,
    PreActResNet164,
    PreActResNet200,
    PreActResNet1001,
    WideResNet16_8,
    WideResNet28_10,
    WideResNet40_4,
    list_architectures,
)
from keras_preact.architecture import Architecture
from keras_preact.decay import decayed_variables
from keras_preact.depths import layer_depths
from keras_preact.export import export_savedmodel
from keras_preact.features import FeatureExtractor, feature_extractor
from keras_preact.version import __version__

__all__ = [
    "Architecture",
    "FeatureExtractor",
    "BUILDERS",
    "PreActResNet",
    "PreActResNet18",
    "PreActResNet20",
    "PreActResNet34",
    "PreActResNet50",
    "PreActResNet56",
    "PreActResNet101",
    "PreActResNet110",
    "PreActResNet152",
    "PreActResNet164",
    "PreActResNet200",
    "PreActResNet1001",
    "WideResNet16_8",
    "WideResNet28_10",
    "WideResNet40_4",
    "list_architectures",
    "__version__",
    "decayed_variables",
    "export_savedmodel",
    "feature_extractor",
    "layer_depths",
    "layers",
    "preprocessing",
    "transforms",
    "weights",
]
