"""The layers that Keras does not have, or has in a slower form."""

from keras_preact.layers.drop_path import DropPath
from keras_preact.layers.fixed_padding import Conv2D, MaxPooling2D
from keras_preact.layers.norm import BatchNormalization
from keras_preact.layers.rematerialized import Rematerialized
from keras_preact.layers.scale_shift import ScaleShift
from keras_preact.layers.stacked_units import StackedUnits

__all__ = [
    "BatchNormalization",
    "Conv2D",
    "DropPath",
    "MaxPooling2D",
    "Rematerialized",
    "ScaleShift",
    "StackedUnits",
]
