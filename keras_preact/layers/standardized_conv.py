"""Convolution with weight standardization (arXiv:1903.10520)."""

from __future__ import annotations

import keras
from keras import ops

from keras_preact.layers.conv import Conv2D
from keras_preact.tensor import Tensor

# As in timm's BiT nets: the published BiT code adds 1e-10, which no float32 variance here feels.
_EPSILON = 1e-8


def standardized(kernel: Tensor, axes: list[int]) -> Tensor:
    """Standardize a kernel to mean 0 and variance 1 over some of its axes, in float32."""
    dtype = keras.backend.standardize_dtype(kernel.dtype)
    kernel = ops.cast(kernel, "float32")
    mean, variance = ops.moments(kernel, axes=axes, keepdims=True)
    return ops.cast((kernel - mean) * ops.rsqrt(variance + _EPSILON), dtype)


@keras.saving.register_keras_serializable(package="keras_preact")
class StandardizedConv2D(Conv2D):
    """`Conv2D` whose kernel has mean 0 and variance 1 over each output channel (arXiv:1903.10520).

    The variable holds the kernel as it is trained; `kernel_in_use` is what convolves.
    """

    def kernel_in_use(self, kernel: Tensor) -> Tensor:
        """Standardize a kernel, in float32.

        Args:
            kernel: `(height, width, channels in, channels out)`.

        Returns:
            A tensor of the same shape and dtype.
        """
        return standardized(kernel, axes=[0, 1, 2])
