"""Operations on the pixels of whole images, in forms that TensorFlow computes fast."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Round an image to whole gray levels.

    Args:
        image: float32 of any shape. Values outside of 0..255 are clipped.

    Returns:
        A uint8 tensor of the same shape.
    """
    # `tf.saturate_cast` compares with more bounds than these, and oneDNN's `QuantizeV2` rounds one
    # image at a time, however many threads ask.
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)


def as_rows(images: tf.Tensor) -> tf.Tensor:
    """Reshape images so that the pixels of a row are one axis.

    Where the last axis is one of 3 channels, TensorFlow is several times slower at broadcasting,
    comparing and reducing.

    Args:
        images: `(height, width, channels)` or `(batch, height, width, channels)`, of any dtype.

    Returns:
        A tensor `(height, width * channels)` or `(batch, height, width * channels)` of the same
        dtype.
    """
    *batch, height, width, channels = images.shape
    return tf.reshape(images, [-1] * len(batch) + [height, width * channels])


def reduce_pixels(reduce: Callable[..., tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Reduce the pixels of each channel of each image, to the mean by default.

    Args:
        reduce: `tf.reduce_mean`, or another whose result for the whole is the one for its results
            for equal parts.
        images: `(height, width, channels)` or `(batch, height, width, channels)`.

    Returns:
        A tensor `(channels,)` or `(batch, channels)`.
    """
    *batch, _, width, channels = images.shape
    columns = reduce(as_rows(images), axis=-2)
    return reduce(tf.reshape(columns, [-1] * len(batch) + [width, channels]), axis=-2)
