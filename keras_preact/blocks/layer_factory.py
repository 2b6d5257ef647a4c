"""Factory of the layers of one net: what its fields choose, under the names given here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.blocks import head
from keras_preact.blocks.convolutions import CONVOLUTIONS, he_or_zeros
from keras_preact.blocks.norms import NORMS, rematerializes
from keras_preact.layers import (
    Activation,
    AveragePooling2D,
    BlurPool2D,
    DropBlock,
    DropPath,
    MaxPooling2D,
    ShakeDrop,
    SliceChannels,
)
from keras_preact.layers.unit_numbers import UNIT_NUMBERS
from keras_preact.spec.fields import Fields
from keras_preact.spec.orders import ORDERS, Order
from keras_preact.tensor import Tensor

# Stochastic depth by `Architecture.drop_path_form`.
DROP_PATHS = {"drop": DropPath, "shake": ShakeDrop}


@dataclass(frozen=True)
class LayerFactory:
    """Makes and applies the layers of one net.

    Maps are `(batch, height, width, channels)`, or have the channels first. Every method takes the
    name of its layer, and applies nothing where the net has no such layer.

    Attributes:
        net: Fields of the net, which decide what the layers are.
        data_format: `"channels_last"` or `"channels_first"`.
        dtype: Dtype policy of every layer.
        dropout_after_conv: Whether dropout follows every convolution, instead of standing where
            `dropout` is called.
        unit_numbers: In the template of stacked units, scalar tensors by field of `Unit`: the
            numbers that differ from unit to unit.
        nests: Whether separate units, and the blocks of an encoder, are models of their own.
    """

    net: Fields
    data_format: str
    dtype: keras.DTypePolicy
    dropout_after_conv: bool = False
    unit_numbers: Mapping[str, Tensor] | None = None
    nests: bool = False

    @property
    def order(self) -> Order:
        """Places of normalization, if the net has any, and activation."""
        order = ORDERS[self.net.order]
        if self.net.activated_stem:
            order = dataclasses.replace(order, stem=order.stem + order.first)
        return order if NORMS[self.net.norm].layer else order.without_norms()

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in a batch."""
        return 1 if self.data_format == "channels_first" else 3

    def conv(
        self,
        x: Tensor,
        filters: int | None,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        normalized: bool = False,
        zero_init: bool = False,
        name: str,
        **options: Any,
    ) -> Tensor:
        """Apply a convolution.

        Args:
            x: Maps.
            filters: Output channels. None to convolve each channel separately.
            kernel_size: Height and width of the kernel, in pixels.
            stride: Factor by which height and width shrink.
            dilation: Spacing of the kernel's pixels.
            normalized: Whether a normalization follows.
            zero_init: Whether the output starts at zero, instead of He's initialization.
            name: Name of the layer.
            **options: Options of the layer.

        Returns:
            Maps. With both stride and dilation, pixels are left out after a dense convolution.
        """
        net = self.net
        kind = CONVOLUTIONS[net.weight_standardization]
        if filters is None:
            layer = kind.depthwise
            # `units.check` has refused the others.
            assert layer is not None
            # Keras counts the multiplier, 1, as the output channels: each channel feeds one.
            options["depthwise_initializer"] = he_or_zeros(zero_init)
        else:
            layer = kind.layer
            options = {"filters": filters, **kind.options(net, zero_init), **options}
        # Keras has no strided convolution with dilation.
        subsampled = stride if dilation > 1 else 1
        convolution = layer(
            kernel_size=kernel_size,
            strides=stride // subsampled,
            dilation_rate=dilation,
            padding=net.padding,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
            **{"use_bias": self._has_bias(normalized), **options},
        )
        x = convolution(x)
        if subsampled != 1:
            x = self.subsample(x, subsampled, name=f"{name}_subsample")
        return self._dropout(x, name=f"{name}_dropout") if self.dropout_after_conv else x

    def _has_bias(self, normalized: bool) -> bool:
        use_bias = self.net.use_bias
        return not normalized if use_bias == "unnormalized" else bool(use_bias)

    def apply(
        self, x: Tensor, steps: Iterable[str], prefix: str, index: int | str = "", **options: Any
    ) -> Tensor:
        """Apply normalization and activation, as the steps of an `Order` say.

        Args:
            x: Maps.
            steps: `"norm"` and `"act"`, in any number.
            prefix: Start of the names: `{prefix}_norm{index}` and `{prefix}_act{index}`.
            index: End of the names.
            **options: Options of `norm`.

        Returns:
            Maps of the same shape.
        """
        for step in steps:
            name = f"{prefix}_{step}{index}"
            x = self.norm(x, name=name, **options) if step == "norm" else self.act(x, name=name)
        return x

    def norm(self, x: Tensor, *, zero_init: bool = False, name: str) -> Tensor:
        """Apply the net's normalization, whose scale may start at zero."""
        make_norm = NORMS[self.net.norm].layer
        # The order of a net without norms has no such step.
        assert make_norm is not None
        layer = make_norm(
            self.net,
            axis=self.channel_axis,
            epsilon=self.net.norm_epsilon,
            dtype=self.dtype,
            name=name,
            **({"gamma_initializer": "zeros"} if zero_init else {}),
            **({"rematerialize": True} if rematerializes(self.net) else {}),
        )
        return layer(x)

    def act(self, x: Tensor, *, name: str) -> Tensor:
        """Apply the net's activation."""
        kind = Activation if rematerializes(self.net) else keras.layers.Activation
        return kind(self.net.activation, dtype=self.dtype, name=name)(x)

    def dropout(self, x: Tensor, *, name: str) -> Tensor:
        """Apply dropout at the net's rate, unless it follows every convolution."""
        return x if self.dropout_after_conv else self._dropout(x, name=name)

    def _dropout(self, x: Tensor, *, name: str) -> Tensor:
        rate = self.net.dropout
        return keras.layers.Dropout(rate, dtype=self.dtype, name=name)(x) if rate else x

    def drop_path(self, x: Tensor, rate: float, *, name: str) -> Tensor:
        """Apply stochastic depth at a unit's rate."""
        layer = DROP_PATHS[self.net.drop_path_form]
        return self.unit_number(x, "drop_path", rate, layer, name=name)

    def unit_number(
        self, x: Tensor, field: str, value: float, layer: type[keras.layers.Layer], *, name: str
    ) -> Tensor:
        """Apply the layer that a number of the unit sets, unless the number is neutral.

        Args:
            x: Maps.
            field: The number, a field of `Unit`.
            value: Its value. The template of stacked units has tensors instead.
            layer: Class of the layer.
            name: Name of the layer.

        Returns:
            Maps of the same shape.
        """
        number = UNIT_NUMBERS[field]
        if self.unit_numbers is None:
            if value == number.neutral:
                return x
            return layer(value, dtype=self.dtype, name=name)(x)
        if field not in self.unit_numbers:
            return x
        made = layer(number.neutral, dtype=self.dtype, name=name)
        return made(x, **{number.option: self.unit_numbers[field]})

    def drop_block(self, x: Tensor, rate: float, *, name: str) -> Tensor:
        """Apply DropBlock at a rate."""
        if not rate:
            return x
        layer = DropBlock(
            rate,
            self.net.drop_block_size,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def add(self, shortcut: Tensor, branch: Tensor, *, name: str) -> Tensor:
        """Apply the addition that ends a unit."""
        return keras.layers.Add(dtype=self.dtype, name=name)([shortcut, branch])

    def concatenate(self, tensors: Sequence[Tensor], *, name: str) -> Tensor:
        """Concatenate the channels of several maps."""
        return keras.layers.Concatenate(self.channel_axis, dtype=self.dtype, name=name)(tensors)

    def rescale(self, x: Tensor, scale: float, offset: float = 0.0, *, name: str) -> Tensor:
        """Apply `x * scale + offset`."""
        return keras.layers.Rescaling(scale, offset, dtype=self.dtype, name=name)(x)

    def multiply(self, x: Tensor, factor: Tensor, *, name: str) -> Tensor:
        """Multiply two maps, or a map by one factor per channel."""
        return keras.layers.Multiply(dtype=self.dtype, name=name)([x, factor])

    def max_pool(self, x: Tensor, size: int, stride: int, *, name: str) -> Tensor:
        """Apply max pooling, padded like the convolutions or with zeros. A blur may stride."""
        blurs = self.net.blur_pool and stride > 1
        layer = MaxPooling2D(
            size,
            1 if blurs else stride,
            padding="zeros" if self.net.zero_pad_pool else self.net.padding,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        x = layer(x)
        return self.blur(x, stride, name=f"{name}_blur") if blurs else x

    def average_pool(self, x: Tensor, size: int, stride: int, *, name: str) -> Tensor:
        """Apply average pooling, in which padding counts as zeros where it is `"fixed"`."""
        layer = AveragePooling2D(
            size,
            stride,
            padding="zeros" if self.net.padding == "fixed" else "same",
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def average_2x2(self, x: Tensor, stride: int, padding: str = "same", *, name: str) -> Tensor:
        """Apply 2x2 average pooling, in which padding does not count."""
        layer = keras.layers.AveragePooling2D(
            2, stride, padding, data_format=self.data_format, dtype=self.dtype, name=name
        )
        return layer(x)

    def subsample(self, x: Tensor, stride: int, *, name: str) -> Tensor:
        """Keep every n-th pixel along height and width."""
        # The average of one pixel. Training would keep the input and output of a maximum.
        layer = AveragePooling2D(
            1, stride, "valid", data_format=self.data_format, dtype=self.dtype, name=name
        )
        return layer(x)

    def blur(self, x: Tensor, stride: int, dilation: int = 1, *, name: str) -> Tensor:
        """Keep every n-th pixel along height and width, after a blur."""
        layer = BlurPool2D(
            stride, dilation, data_format=self.data_format, dtype=self.dtype, name=name
        )
        return layer(x)

    def channels(self, x: Tensor, start: int, stop: int, *, name: str) -> Tensor:
        """Keep some of the channels."""
        return SliceChannels(start, stop, self.channel_axis, dtype=self.dtype, name=name)(x)

    def global_pool(self, x: Tensor, kind: str | None = None, *, name: str) -> Tensor:
        """Apply global pooling, see `head.global_pool`."""
        return head.global_pool(x, kind, self.data_format, self.dtype, name)

    def classifier(self, x: Tensor, classes: int, activation: Any, *, name: str) -> Tensor:
        """Apply the classifier, see `head.classifier`."""
        return head.classifier(x, classes, activation, self.dtype, name)
