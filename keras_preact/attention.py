"""Attention in a unit: factors for its channels and pixels, worked out from its own maps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_preact.convolutions import he_initializer
from keras_preact.layers import ChannelPooling, Conv2D, GlobalMean2D
from keras_preact.norms import NORMS
from keras_preact.parts import Parts

if TYPE_CHECKING:
    from keras_preact.architecture import Unit

# Where attention may stand in a residual branch.
PLACES = ("after_last_conv", "before_last_conv")


class Attention(Protocol):
    """A kind of attention."""

    def __call__(self, x: Any, parts: Parts, name: str) -> Any:
        """Apply it.

        Args:
            x: Tensor `(batch, height, width, channels)`, or with the channels first.
            parts: Makes the layers.
            name: What the names of the layers begin with.

        Returns:
            A tensor of the same shape.
        """


def before_last_conv(x: Any, unit: Unit, parts: Parts) -> Any:
    """Attention on what the last convolution takes, as in EfficientNet; `x` where it is not."""
    return _attend(x, unit, parts, "before_last_conv")


def after_last_conv(x: Any, unit: Unit, parts: Parts) -> Any:
    """Attention on what the branch gives, as in SE-ResNet; `x` where it is not."""
    return _attend(x, unit, parts, "after_last_conv")


def _attend(x: Any, unit: Unit, parts: Parts, place: str) -> Any:
    architecture = parts.architecture
    if architecture.attention is None or architecture.attention_place != place:
        return x
    return ATTENTIONS[architecture.attention](x, parts, unit.name)


def _squeeze_and_excitation(x: Any, parts: Parts, name: str) -> Any:
    """A factor for each channel: its mean through two dense layers (arXiv:1709.01507)."""
    channels = x.shape[parts.channel_axis]
    gate = _pool(x, GlobalMean2D, parts, name=f"{name}_se_squeeze")
    gate = _reduce(channels, parts, name=f"{name}_se_reduce")(gate)
    gate = _conv(channels, 1, parts, activation="sigmoid", name=f"{name}_se_expand")(gate)
    return parts.multiply(x, gate, name=f"{name}_se_scale")


def _efficient_channel_attention(x: Any, parts: Parts, name: str) -> Any:
    """A factor for each channel: a convolution along the channels' means (arXiv:1910.03151)."""
    channels = x.shape[parts.channel_axis]
    gate = _pool(x, GlobalMean2D, parts, name=f"{name}_eca_squeeze")
    sequence = keras.layers.Reshape((channels, 1), dtype=parts.dtype, name=f"{name}_eca_sequence")
    convolution = keras.layers.Conv1D(
        1,
        eca_kernel_size(channels),
        padding="same",
        use_bias=False,
        activation="sigmoid",
        kernel_initializer=he_initializer(),
        data_format="channels_last",
        dtype=parts.dtype,
        name=f"{name}_eca_conv",
    )
    maps = keras.layers.Reshape(gate.shape[1:], dtype=parts.dtype, name=f"{name}_eca_gate")
    return parts.multiply(x, maps(convolution(sequence(gate))), name=f"{name}_eca_scale")


def eca_kernel_size(channels: int) -> int:
    """How many neighbouring channels ECA looks at, for so many of them.

    The odd number next to `(log2(channels) + 1) / 2` (arXiv:1910.03151, equation 12, with the
    authors' gamma = 2, b = 1 and rounding: down, then up to an odd one), 3 or more as in timm.
    """
    size = int(abs((math.log2(channels) + 1) / 2))
    return max(size if size % 2 else size + 1, 3)


def _convolutional_block_attention(x: Any, parts: Parts, name: str) -> Any:
    """A factor for each channel, then one for each pixel (CBAM, arXiv:1807.06521).

    The channels' means and maxima go through the same two dense layers; the pixels' mean and
    maximum over the channels through a 7x7 convolution. As in the authors' code, the dense layers
    have biases, and a batch norm follows the 7x7 convolution; where the net's norms cannot take a
    single channel, a bias stands in for it.
    """
    name = f"{name}_cbam"
    channels = x.shape[parts.channel_axis]
    reduce = _reduce(channels, parts, name=f"{name}_reduce")
    expand = _conv(channels, 1, parts, name=f"{name}_expand")
    mean = expand(reduce(_pool(x, GlobalMean2D, parts, name=f"{name}_mean")))
    maximum = expand(reduce(_pool(x, keras.layers.GlobalMaxPooling2D, parts, name=f"{name}_max")))
    gate = parts.add(mean, maximum, name=f"{name}_sum")
    gate = _sigmoid(gate, parts, name=f"{name}_channel_gate")
    x = parts.multiply(x, gate, name=f"{name}_channel_scale")

    pool = ChannelPooling(axis=parts.channel_axis, dtype=parts.dtype, name=f"{name}_pool")
    normalizes = NORMS[parts.architecture.norm].any_channels
    gate = _conv(1, 7, parts, use_bias=not normalizes, name=f"{name}_conv")(pool(x))
    gate = parts.norm(gate, name=f"{name}_norm") if normalizes else gate
    gate = _sigmoid(gate, parts, name=f"{name}_pixel_gate")
    return parts.multiply(x, gate, name=f"{name}_pixel_scale")


def _pool(x: Any, kind: type[keras.layers.Layer], parts: Parts, *, name: str) -> Any:
    return kind(data_format=parts.data_format, keepdims=True, dtype=parts.dtype, name=name)(x)


def _reduce(channels: int, parts: Parts, *, name: str) -> keras.layers.Layer:
    """The first of two dense layers, with an activation of its own whatever the net's norms."""
    architecture = parts.architecture
    activation = architecture.activation
    return _conv(
        architecture.attention_channels(channels),
        1,
        parts,
        activation="relu" if activation == "linear" else activation,
        name=name,
    )


def _conv(filters: int, kernel_size: int, parts: Parts, *, name: str, **options: Any) -> Conv2D:
    """A convolution of an attention; weight standardisation would only take its scale from it."""
    return Conv2D(
        filters,
        kernel_size,
        kernel_initializer=he_initializer(),
        data_format=parts.data_format,
        dtype=parts.dtype,
        name=name,
        **options,
    )


def _sigmoid(x: Any, parts: Parts, *, name: str) -> Any:
    return keras.layers.Activation("sigmoid", dtype=parts.dtype, name=name)(x)


ATTENTIONS: dict[str, Attention] = {
    "se": _squeeze_and_excitation,
    "eca": _efficient_channel_attention,
    "cbam": _convolutional_block_attention,
}
