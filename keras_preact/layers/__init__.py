"""Layers that Keras does not have, or has in a slower form."""

from keras_preact.layers.activation import Activation
from keras_preact.layers.batch_norm import BatchNormalization
from keras_preact.layers.blur_pool import BlurPool2D
from keras_preact.layers.channel_pooling import ChannelPooling
from keras_preact.layers.conv import Conv2D, PaddedConvolution
from keras_preact.layers.depthwise_conv import (
    DepthwiseConv2D,
    StandardizedDepthwiseConv2D,
)
from keras_preact.layers.drop_block import DropBlock
from keras_preact.layers.drop_path import DropPath
from keras_preact.layers.evonorm import EvoNormS0
from keras_preact.layers.filter_response_norm import FilterResponseNormalization
from keras_preact.layers.global_mean import GlobalMean2D
from keras_preact.layers.nearest_resize import NearestResize
from keras_preact.layers.pad_channels import PadChannels
from keras_preact.layers.pooling import AveragePooling2D, MaxPooling2D
from keras_preact.layers.recomputed_norm import (
    GroupNormalization,
    LayerNormalization,
    RecomputedNorm,
)
from keras_preact.layers.rematerialized import Rematerialized
from keras_preact.layers.scale import Scale
from keras_preact.layers.scale_shift import ScaleShift
from keras_preact.layers.scaled_standardized_conv import ScaledStandardizedConv2D
from keras_preact.layers.self_attention_2d import SelfAttention2D
from keras_preact.layers.shake_drop import ShakeDrop
from keras_preact.layers.skip_init import SkipInit
from keras_preact.layers.slice_channels import SliceChannels
from keras_preact.layers.stacked_units import StackedUnits
from keras_preact.layers.standardized_conv import StandardizedConv2D
from keras_preact.layers.token_attention import TokenAttention
from keras_preact.layers.token_embedding import TokenEmbedding
from keras_preact.layers.token_pooling import TokenPooling
from keras_preact.layers.winograd_conv import WinogradConv2D

__all__ = [
    "PaddedConvolution",
    "Activation",
    "GroupNormalization",
    "LayerNormalization",
    "RecomputedNorm",
    "AveragePooling2D",
    "BatchNormalization",
    "BlurPool2D",
    "ChannelPooling",
    "Conv2D",
    "DepthwiseConv2D",
    "DropBlock",
    "DropPath",
    "EvoNormS0",
    "FilterResponseNormalization",
    "GlobalMean2D",
    "MaxPooling2D",
    "NearestResize",
    "PadChannels",
    "Rematerialized",
    "Scale",
    "ScaleShift",
    "ScaledStandardizedConv2D",
    "SelfAttention2D",
    "ShakeDrop",
    "SkipInit",
    "SliceChannels",
    "StackedUnits",
    "StandardizedConv2D",
    "StandardizedDepthwiseConv2D",
    "TokenAttention",
    "TokenEmbedding",
    "TokenPooling",
    "WinogradConv2D",
]
