"""1x1 convolutions in training on TensorFlow without a GPU (`benchmarks/pointwise.py`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

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
    return convolution_with_product_gradient(inputs, ops.convert_to_tensor(kernel))


def convolution_with_product_gradient(inputs: Any, kernel: Any) -> Any:
    """TensorFlow's 1x1 convolution, but for the kernel's gradient, which is a matrix product.

    That gradient sums over all pixels, for which the convolution's own kernel is the slowest of its
    three.

    Args:
        inputs: Maps `(batch, height, width, channels)`.
        kernel: `(1, 1, channels, filters)`, of the same dtype.

    Returns:
        Maps `(batch, height, width, filters)`.
    """
    return _convolution_with_product_gradient()(inputs, kernel)


@functools.cache
def _convolution_with_product_gradient() -> Callable[[Any, Any], Any]:
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(inputs: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            from_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
            pixels, upstreams = (
                tf.reshape(each, (-1, each.shape[-1])) for each in (inputs, upstream)
            )
            product = tf.matmul(pixels, upstreams, transpose_a=True)
            return from_inputs, tf.reshape(product, kernel.shape)

        return tf.nn.conv2d(inputs, kernel, 1, "SAME"), gradient

    return convolve
