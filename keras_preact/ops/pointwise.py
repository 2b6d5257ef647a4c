"""1x1 convolutions in training on TensorFlow without a GPU (`benchmarks/pointwise.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from keras import ops

from keras_preact.ops.choices import enabled
from keras_preact.ops.kernel_gradient import convolution
from keras_preact.tensor import Tensor

# In float32 a convolution of up to so many weights trains faster as a matrix product of the pixels.
_PRODUCT_WEIGHTS = 16384
# With fewer input channels, the kernel gradient of a strided 1x1 convolution in TensorFlow 2.21 on
# oneDNN writes beyond its memory where an operation has one thread: 8 channels with AVX2, 16 with
# AVX-512.
_SAFE_CHANNELS = 16


def trainable_pointwise(
    kernel_shape: tuple[int, int, int, int], strides: tuple[int, int], dtype: str
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Choose the form of a 1x1 convolution that trains fastest on TensorFlow without a GPU.

    Args:
        kernel_shape: `(1, 1, channels, filters)`.
        strides: Down and across, in pixels.
        dtype: Dtype of inputs and kernel.

    Returns:
        A function of maps `(batch, height, width, channels)` and a kernel, both of `dtype`, to maps
        `(batch, ceil(height / stride down), ceil(width / stride across), filters)`; None where the
        plain convolution is to be taken.
    """
    if strides != (1, 1):
        unsafe = kernel_shape[2] < _SAFE_CHANNELS
        return partial(convolution, strides=strides, by_products=True) if unsafe else None
    few = math.prod(kernel_shape) <= _PRODUCT_WEIGHTS
    if few and dtype == "float32" and enabled("pointwise"):
        return _product
    return partial(convolution, by_products=True) if enabled("products") else None


def _product(inputs: Tensor, kernel: Tensor) -> Tensor:
    return ops.matmul(inputs, kernel[0, 0])
