"""Helpers of functions with a gradient of their own, on TensorFlow."""

from __future__ import annotations

from typing import Any

from keras_preact.tensor import Tensor


def value_of(variable: Any) -> Tensor:
    """Convert a variable to a tensor: gradients of variables would have to be returned by name."""
    import tensorflow as tf

    return tf.convert_to_tensor(variable)


def depends_on(other: Tensor, value: Tensor) -> Tensor:
    """Delay a value until another is known.

    TensorFlow computes what it can as early as it can: all kernels at Winograd's points when a step
    starts, and what a backward pass makes of the inputs together with the forward one's. Such
    tensors are large and would wait in memory.
    """
    import tensorflow as tf

    with tf.control_dependencies([other]):
        return tf.identity(value)
