"""Attention in a unit: factors for the channels and pixels of its maps, computed from them."""

from __future__ import annotations

import math
from typing import Any, Protocol

import keras

from keras_preact.blocks.convolutions import he_initializer
from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.norms import NORMS
from keras_preact.layers import ChannelPooling, Conv2D
from keras_preact.spec.fields import Fields
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor


class Attention(Protocol):
    """A kind of attention."""

    def __call__(self, x: Tensor, make: LayerFactory, name: str) -> Tensor:
        """Apply the attention.

        Args:
            x: Maps `(batch, height, width, channels)`, or with the channels first.
            make: Makes the layers.
            name: Start of the names of the layers.

        Returns:
            Maps of the same shape.
        """


def attend(x: Tensor, unit: Unit, make: LayerFactory, place: str) -> Tensor:
    """Apply the net's attention, if this is its place in the branch.

    Args:
        x: Maps.
        unit: The unit.
        make: Makes the layers.
        place: `"before_last_conv"`, as in EfficientNet, or `"after_last_conv"`, as in SE-ResNet.

    Returns:
        Maps of the same shape.
    """
    if make.net.attention is None or make.net.attention_place != place:
        return x
    return ATTENTIONS[make.net.attention](x, make, unit.name)


def attention_channels(net: Fields, channels: int) -> int:
    """Return the channels inside an attention that acts on `channels`."""
    return max(1, round(channels * net.attention_ratio))


def _squeeze_and_excitation(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    """Apply one factor per channel: its mean through two dense layers (arXiv:1709.01507)."""
    channels = x.shape[make.channel_axis]
    gate = _pool(x, keras.layers.GlobalAveragePooling2D, make, name=f"{name}_se_squeeze")
    gate = _reduce(channels, make, name=f"{name}_se_reduce")(gate)
    gate = _conv(channels, 1, make, activation="sigmoid", name=f"{name}_se_expand")(gate)
    return make.multiply(x, gate, name=f"{name}_se_scale")


def _efficient_channel_attention(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    """Apply one factor per channel: a convolution along their means (arXiv:1910.03151)."""
    channels = x.shape[make.channel_axis]
    gate = _pool(x, keras.layers.GlobalAveragePooling2D, make, name=f"{name}_eca_squeeze")
    sequence = keras.layers.Reshape((channels, 1), dtype=make.dtype, name=f"{name}_eca_sequence")
    convolution = keras.layers.Conv1D(
        1,
        eca_kernel_size(channels),
        padding="same",
        use_bias=False,
        activation="sigmoid",
        kernel_initializer=he_initializer(),
        data_format="channels_last",
        dtype=make.dtype,
        name=f"{name}_eca_conv",
    )
    maps = keras.layers.Reshape(gate.shape[1:], dtype=make.dtype, name=f"{name}_eca_gate")
    return make.multiply(x, maps(convolution(sequence(gate))), name=f"{name}_eca_scale")


def eca_kernel_size(channels: int) -> int:
    """Return the kernel size of ECA: the number of neighboring channels that it looks at.

    It is the odd number next to `(log2(channels) + 1) / 2`, and at least 3 as in timm. Equation 12
    of arXiv:1910.03151, with the authors' gamma = 2, b = 1 and rounding: down, then up to an odd
    number.

    Args:
        channels: Number of channels.
    """
    size = int(abs((math.log2(channels) + 1) / 2))
    return max(size if size % 2 else size + 1, 3)


def _convolutional_block_attention(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    """Apply one factor per channel, then one per pixel (CBAM, arXiv:1807.06521).

    The means and maxima of the channels go through the same two dense layers. The mean and maximum
    of each pixel go through a 7x7 convolution. As in the authors' code, the dense layers have
    biases, and a batch norm follows the 7x7 convolution. Where the net's norms cannot work on a
    single channel, a bias replaces it.
    """
    name = f"{name}_cbam"
    channels = x.shape[make.channel_axis]
    reduce = _reduce(channels, make, name=f"{name}_reduce")
    expand = _conv(channels, 1, make, name=f"{name}_expand")
    mean = expand(reduce(_pool(x, keras.layers.GlobalAveragePooling2D, make, name=f"{name}_mean")))
    maximum = expand(reduce(_pool(x, keras.layers.GlobalMaxPooling2D, make, name=f"{name}_max")))
    gate = make.add(mean, maximum, name=f"{name}_sum")
    gate = _sigmoid(gate, make, name=f"{name}_channel_gate")
    x = make.multiply(x, gate, name=f"{name}_channel_scale")

    pool = ChannelPooling(axis=make.channel_axis, dtype=make.dtype, name=f"{name}_pool")
    normalizes = NORMS[make.net.norm].any_channels
    gate = _conv(1, 7, make, use_bias=not normalizes, name=f"{name}_conv")(pool(x))
    gate = make.norm(gate, name=f"{name}_norm") if normalizes else gate
    gate = _sigmoid(gate, make, name=f"{name}_pixel_gate")
    return make.multiply(x, gate, name=f"{name}_pixel_scale")


def _pool(x: Tensor, kind: type[keras.layers.Layer], make: LayerFactory, *, name: str) -> Tensor:
    return kind(data_format=make.data_format, keepdims=True, dtype=make.dtype, name=name)(x)


def _reduce(channels: int, make: LayerFactory, *, name: str) -> keras.layers.Layer:
    """Return the first of two dense layers, with an activation even if the norms contain one."""
    activation = make.net.activation
    return _conv(
        attention_channels(make.net, channels),
        1,
        make,
        activation="relu" if activation == "linear" else activation,
        name=name,
    )


def _conv(
    filters: int, kernel_size: int, make: LayerFactory, *, name: str, **options: Any
) -> Conv2D:
    """Return a convolution. Weight standardization would only remove its scale."""
    return Conv2D(
        filters,
        kernel_size,
        kernel_initializer=he_initializer(),
        data_format=make.data_format,
        dtype=make.dtype,
        name=name,
        **options,
    )


def _sigmoid(x: Tensor, make: LayerFactory, *, name: str) -> Tensor:
    return keras.layers.Activation("sigmoid", dtype=make.dtype, name=name)(x)


ATTENTIONS: dict[str, Attention] = {
    "se": _squeeze_and_excitation,
    "eca": _efficient_channel_attention,
    "cbam": _convolutional_block_attention,
}
