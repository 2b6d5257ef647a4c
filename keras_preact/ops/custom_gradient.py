"""Helpers of functions with a gradient of their own."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.tensor import Tensor


def value_of(variable: Any) -> Tensor:
    """Convert a variable to a tensor, its value now.

    On TensorFlow, Keras leaves variables as they are. Their gradients would have to be returned by
    name, and later they have another value, or are others where a loop puts tensors in their place.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.ops.convert_to_tensor(variable)
    import tensorflow as tf

    return tf.convert_to_tensor(variable)


def depends_on(other: Tensor, value: Tensor) -> Tensor:
    """Delay a value until another is known, on TensorFlow.

    TensorFlow computes what it can as early as it can: all kernels at Winograd's points when a step
    starts, and what a backward pass makes of the inputs together with the forward one's. Such
    tensors are large and would wait in memory.
    """
    import tensorflow as tf

    with tf.control_dependencies([other]):
        return tf.identity(value)
