"""Training of narrow strided 1x1 convolutions on one thread; see `test_choices.py`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_preact.layers import Conv2D


def train() -> None:
    """Check the gradients of kernels of ones, again and again."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    for channels in (1, 4, 7, 8, 12, 15):
        layer = Conv2D(2 * channels, 1, strides=2, use_bias=False)
        layer.build((None, None, None, channels))
        step = tf.function(_gradient)
        for size in (32, 56):
            x = tf.ones((8, size, size, channels))
            for _ in range(30):
                gradient = step(layer, x)
            np.testing.assert_array_equal(gradient, np.full(gradient.shape, 8 * (size // 2) ** 2))


def _gradient(layer: Conv2D, x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
    return tape.gradient(y, layer.kernel.value)
