"""The layers that Keras does not have, or has in a slower form."""

from keras_preact.layers.drop_path import DropPath
from keras_preact.layers.evonorm import EvoNormS0
from keras_preact.layers.filter_response_norm import FilterResponseNormalization
from keras_preact.layers.fixed_padding import Conv2D, MaxPooling2D
from keras_preact.layers.nearest_resize import NearestResize
from keras_preact.layers.norm import BatchNormalization
from keras_preact.layers.rematerialized import Rematerialized
from keras_preact.layers.scale import Scale
from keras_preact.layers.scale_shift import ScaleShift
from keras_preact.layers.scaled_standardized_conv import ScaledStandardizedConv2D
from keras_preact.layers.skip_init import SkipInit
from keras_preact.layers.stacked_units import StackedUnits
from keras_preact.layers.standardized_conv import StandardizedConv2D

__all__ = [
    "BatchNormalization",
    "Conv2D",
    "DropPath",
    "EvoNormS0",
    "FilterResponseNormalization",
    "MaxPooling2D",
    "NearestResize",
    "Rematerialized",
    "Scale",
    "ScaleShift",
    "ScaledStandardizedConv2D",
    "SkipInit",
    "StackedUnits",
    "StandardizedConv2D",
]
