"""The layers that Keras does not have, or has in a slower form."""

from keras_preact.layers.drop_path import DropPath
from keras_preact.layers.evonorm import EvoNormS0
from keras_preact.layers.fixed_padding import Conv2D, MaxPooling2D
from keras_preact.layers.nearest_resize import NearestResize
from keras_preact.layers.norm import BatchNormalization
from keras_preact.layers.rematerialized import Rematerialized
from keras_preact.layers.scale_shift import ScaleShift
from keras_preact.layers.self_attention_2d import SelfAttention2D
from keras_preact.layers.stacked_units import StackedUnits
from keras_preact.layers.standardized_conv import StandardizedConv2D
from keras_preact.layers.token_attention import TokenAttention
from keras_preact.layers.token_embedding import TokenEmbedding
from keras_preact.layers.token_pooling import TokenPooling

__all__ = [
    "BatchNormalization",
    "Conv2D",
    "DropPath",
    "EvoNormS0",
    "MaxPooling2D",
    "NearestResize",
    "Rematerialized",
    "ScaleShift",
    "SelfAttention2D",
    "StackedUnits",
    "StandardizedConv2D",
    "TokenAttention",
    "TokenEmbedding",
    "TokenPooling",
]
