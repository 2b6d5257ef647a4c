"""Makes the layers of one net: what its architecture chose, under the names given here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from keras_preact import head
from keras_preact.convolutions import CONVOLUTIONS, he_initializer
from keras_preact.layers import (
    AveragePooling2D,
    BlurPool2D,
    DepthwiseConv2D,
    DropBlock,
    DropPath,
    MaxPooling2D,
    ShakeDrop,
    SliceChannels,
    StandardizedDepthwiseConv2D,
)
from keras_preact.layers.unit_numbers import UNIT_NUMBERS
from keras_preact.norms import NORMS
from keras_preact.orders import ORDERS, Order

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture

# Stochastic depth by `Architecture.drop_path_form`.
DROP_PATHS = {"drop": DropPath, "shake": ShakeDrop}


@dataclass(frozen=True)
class Parts:
    """Makes and applies the layers of one net.

    Attributes:
        architecture: Decides what the layers are.
        data_format: `"channels_last"` or `"channels_first"`.
        dtype: Dtype policy of every layer.
    """

    architecture: Architecture
    data_format: str
    dtype: keras.DTypePolicy

    @property
    def order(self) -> Order:
        """Where normalisation, if the net has any, and activation stand."""
        order = ORDERS[self.architecture.order]
        return order if NORMS[self.architecture.norm].layer else order.without_norms()

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in a batch."""
        return 1 if self.data_format == "channels_first" else 3

    def conv(
        self,
        x: Any,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        normalized: bool = False,
        zero_init: bool = False,
        name: str,
        **options: Any,
    ) -> Any:
        """A convolution with He initialisation, or one that starts at zero.

        `normalized` says that a normalisation follows; the options are those of the layer. Where
        both stride and dilation are asked for, pixels are left out of a dense convolution.
        """
        architecture = self.architecture
        layer = functools.partial(
            CONVOLUTIONS[architecture.weight_standardization],
            architecture,
            zero_init,
            filters=filters,
            kernel_size=kernel_size,
        )
        options = {"use_bias": self._has_bias(normalized), **options}
        return self._convolve(x, layer, stride, dilation, name=name, **options)

    def depthwise_conv(
        self,
        x: Any,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        normalized: bool = False,
        zero_init: bool = False,
        name: str,
    ) -> Any:
        """As `conv`, each channel by itself."""
        standardizes = self.architecture.weight_standardization
        layer = functools.partial(
            StandardizedDepthwiseConv2D if standardizes else DepthwiseConv2D,
            kernel_size,
            # Keras counts one channel out, the multiplier: a channel feeds one other.
            depthwise_initializer=keras.initializers.Zeros() if zero_init else he_initializer(),
        )
        use_bias = self._has_bias(normalized)
        return self._convolve(x, layer, stride, dilation, use_bias=use_bias, name=name)

    def _convolve(
        self,
        x: Any,
        layer: Callable[..., keras.layers.Layer],
        stride: int,
        dilation: int,
        *,
        name: str,
        **options: Any,
    ) -> Any:
        # Keras has no strided convolution with dilation.
        subsampled = stride if dilation > 1 else 1
        convolution = layer(
            strides=stride // subsampled,
            dilation_rate=dilation,
            padding=self.architecture.padding,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
            **options,
        )
        x = convolution(x)
        return x if subsampled == 1 else self.subsample(x, subsampled, name=f"{name}_subsample")

    def _has_bias(self, normalized: bool) -> bool:
        use_bias = self.architecture.use_bias
        return not normalized if use_bias == "unnormalized" else use_bias

    def apply(
        self, x: Any, steps: Iterable[str], prefix: str, index: int | str = "", **options: Any
    ) -> Any:
        """Normalisation and activation, as the steps of an `Order` say.

        The layers are named `{prefix}_norm{index}` and `{prefix}_act{index}`; the options are
        `norm`'s.
        """
        for step in steps:
            name = f"{prefix}_{step}{index}"
            x = self.norm(x, name=name, **options) if step == "norm" else self.act(x, name=name)
        return x

    def norm(self, x: Any, *, zero_init: bool = False, name: str) -> Any:
        """The architecture's normalisation, with a scale that may start at zero."""
        layer = NORMS[self.architecture.norm].layer(
            self.architecture,
            axis=self.channel_axis,
            epsilon=self.architecture.norm_epsilon,
            dtype=self.dtype,
            name=name,
            **({"gamma_initializer": "zeros"} if zero_init else {}),
        )
        return layer(x)

    def act(self, x: Any, *, name: str) -> Any:
        """The architecture's activation."""
        return keras.layers.Activation(self.architecture.activation, dtype=self.dtype, name=name)(x)

    def dropout(self, x: Any, *, name: str) -> Any:
        """Dropout at the architecture's rate; nothing where that is 0."""
        rate = self.architecture.dropout
        return keras.layers.Dropout(rate, dtype=self.dtype, name=name)(x) if rate else x

    def drop_path(self, x: Any, rate: float, *, name: str) -> Any:
        """Stochastic depth at the unit's rate; nothing where that is 0."""
        layer = DROP_PATHS[self.architecture.drop_path_form]
        return self.unit_number(x, "drop_path", rate, layer, name=name)

    def unit_number(
        self, x: Any, field: str, value: float, layer: type[keras.layers.Layer], *, name: str
    ) -> Any:
        """The layer that a unit's own number sets; nothing where that is neutral.

        Where units are stacked, the number comes from outside the unit.
        """
        if value == UNIT_NUMBERS[field].neutral:
            return x
        return layer(value, dtype=self.dtype, name=name)(x)

    def drop_block(self, x: Any, rate: float, *, name: str) -> Any:
        """DropBlock at a rate; nothing where that is 0."""
        if not rate:
            return x
        layer = DropBlock(
            rate,
            self.architecture.drop_block_size,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def add(self, shortcut: Any, branch: Any, *, name: str) -> Any:
        """The addition that ends a unit."""
        return keras.layers.Add(dtype=self.dtype, name=name)([shortcut, branch])

    def concatenate(self, tensors: Sequence[Any], *, name: str) -> Any:
        """The channels of several maps, one after the other."""
        return keras.layers.Concatenate(self.channel_axis, dtype=self.dtype, name=name)(tensors)

    def rescale(self, x: Any, scale: float, offset: float = 0.0, *, name: str) -> Any:
        """`x * scale + offset`."""
        return keras.layers.Rescaling(scale, offset, dtype=self.dtype, name=name)(x)

    def multiply(self, x: Any, factor: Any, *, name: str) -> Any:
        """The product of two maps, or of a map and a factor for each of its channels."""
        return keras.layers.Multiply(dtype=self.dtype, name=name)([x, factor])

    def max_pool(self, x: Any, size: int, stride: int, *, name: str) -> Any:
        """Max pooling, padded as the convolutions are, or by zeros; its stride may be a blur's."""
        blurs = self.architecture.blur_pool and stride > 1
        layer = MaxPooling2D(
            size,
            1 if blurs else stride,
            padding="zeros" if self.architecture.zero_pad_pool else self.architecture.padding,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        x = layer(x)
        return self.blur(x, stride, name=f"{name}_blur") if blurs else x

    def average_pool(self, x: Any, size: int, stride: int, *, name: str) -> Any:
        """Average pooling, in which padding counts as zeros where it is `"fixed"`."""
        layer = AveragePooling2D(
            size,
            stride,
            padding="zeros" if self.architecture.padding == "fixed" else "same",
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def subsample(self, x: Any, stride: int, *, name: str) -> Any:
        """Every n-th pixel along height and width."""
        # The average of one pixel. Training would keep what goes in and out of a maximum.
        layer = AveragePooling2D(
            1, stride, "valid", data_format=self.data_format, dtype=self.dtype, name=name
        )
        return layer(x)

    def blur(self, x: Any, stride: int, dilation: int = 1, *, name: str) -> Any:
        """Every n-th pixel along height and width, after a blur."""
        layer = BlurPool2D(
            stride, dilation, data_format=self.data_format, dtype=self.dtype, name=name
        )
        return layer(x)

    def channels(self, x: Any, start: int, stop: int, *, name: str) -> Any:
        """Some of the channels."""
        return SliceChannels(start, stop, self.channel_axis, dtype=self.dtype, name=name)(x)

    def global_pool(self, x: Any, kind: str | None = None, *, name: str) -> Any:
        """One vector an image, from maps or tokens; what a classifier takes by default."""
        return head.global_pool(x, kind, self.data_format, self.dtype, name)

    def classifier(self, x: Any, classes: int, activation: Any, *, name: str) -> Any:
        """Dense layer to class scores, in float32 where the policy computes in 16 bits."""
        return head.classifier(x, classes, activation, self.dtype, name)
