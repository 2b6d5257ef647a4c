"""1x1 convolutions in training on TensorFlow without a GPU (`benchmarks/pointwise.py`)."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_preact.layers.kernel_gradient import convolution

# In float32 a convolution of up to so many weights trains faster as a matrix product of the pixels.
_PRODUCT_WEIGHTS = 16384


def pointwise(inputs: Any, kernel: Any) -> Any:
    """A 1x1 convolution of stride 1 in the form that trains fastest on TensorFlow without a GPU.

    Args:
        inputs: Maps `(batch, height, width, channels)`.
        kernel: `(1, 1, channels, filters)`, of the same dtype.

    Returns:
        Maps `(batch, height, width, filters)`.
    """
    small = math.prod(kernel.shape) <= _PRODUCT_WEIGHTS
    if small and keras.backend.standardize_dtype(inputs.dtype) == "float32":
        return ops.matmul(inputs, kernel[0, 0])
    return convolution(inputs, kernel, by_products=True)
