"""Depthwise convolutions, padded alike on every side or with a standardized kernel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.layers.conv import PaddedConvolution
from keras_preact.layers.padding import pad_widths
from keras_preact.layers.standardized_conv import standardized
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class DepthwiseConv2D(PaddedConvolution, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that also knows `padding="fixed"`: half the kernel each side.

    Args:
        kernel_size: Odd integer or pair of odd integers, in pixels.
        padding: `"fixed"`, `"same"` or `"valid"`.
        **kwargs: As for `keras.layers.DepthwiseConv2D`.

    Raises:
        ValueError: If `padding` is `"fixed"` and the kernel has an even side.
    """

    def __init__(self, kernel_size: Any, padding: str = "fixed", **kwargs: Any) -> None:
        self.fixed = padding == "fixed"
        super().__init__(kernel_size, padding="valid" if self.fixed else padding, **kwargs)
        self.set_pads()
        # Keras's name for it in every other layer, by which stacked units find it.
        self.kernel_initializer = self.depthwise_initializer

    def call(self, inputs: Tensor) -> Tensor:
        return self.finish(self.convolution_op(inputs, self.kernel))

    def _convolve(self, inputs: Tensor, kernel: Tensor, data_format: str) -> Tensor:
        if self.pads:
            inputs = ops.pad(inputs, pad_widths(self.pads, data_format))
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=data_format,
        )


@keras.saving.register_keras_serializable(package="keras_preact")
class StandardizedDepthwiseConv2D(DepthwiseConv2D):
    """`DepthwiseConv2D` whose kernel has mean 0 and variance 1 over each channel's pixels.

    That is weight standardization (arXiv:1903.10520) of a convolution in as many groups as there
    are channels. The variable holds the kernel as it is trained.
    """

    def kernel_in_use(self, kernel: Tensor) -> Tensor:
        """Standardize a kernel, in float32.

        Args:
            kernel: `(height, width, channels, multiplier)`.

        Returns:
            A tensor of the same shape and dtype.
        """
        return standardized(kernel, axes=[0, 1])
