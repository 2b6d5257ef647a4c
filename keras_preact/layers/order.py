"""The order in which TensorFlow computes."""

from __future__ import annotations

from typing import Any


def once_there_is(other: Any, value: Any) -> Any:
    """The value, but not before the other is known.

    TensorFlow computes what it can as early as it can: all kernels at Winograd's points when a step
    starts, and what a backward pass makes of the inputs together with the forward one's. Such
    tensors are large and would wait in memory.
    """
    import tensorflow as tf

    with tf.control_dependencies([other]):
        return tf.identity(value)
