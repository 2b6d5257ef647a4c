"""Gray levels of images: the same checks and rounding for arrays and in a TensorFlow graph."""

from __future__ import annotations

import numpy as np

from keras_preact.tensor import Tensor

_SHAPE = "An image must have the shape (height, width, {channels}). Received: shape "
_RANGE = "Pixels must be in 0..255. Received: "
_SCALED = "Pixels must be in 0..255; these look scaled to 0..1 already. Received: "


def to_levels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Check the pixels of an image and convert them to uint8.

    Args:
        pixels: Numbers `(height, width, channels)` in 0..255.
        channels: 1 for gray, 3 for RGB.

    Returns:
        The pixels, rounded to whole gray levels.

    Raises:
        ValueError: If the shape or the range is another.
    """
    if pixels.ndim != 3 or pixels.shape[-1] != channels or 0 in pixels.shape:
        raise ValueError(f"{_SHAPE.format(channels=channels)}{pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):
        raise ValueError(f"{_RANGE}{low} to {high}")
    if np.issubdtype(pixels.dtype, np.floating) and 0 < high <= 1:
        raise ValueError(f"{_SCALED}{low} to {high}, dtype {pixels.dtype}")
    return np.rint(pixels).astype(np.uint8)


def to_levels_in_graph(pixels: Tensor, channels: int) -> Tensor:
    """Do in a TensorFlow graph as `to_levels` does.

    Args:
        pixels: TensorFlow tensor of numbers `(height, width, channels)` in 0..255. Parts of the
            shape, or all of it, may be unknown before the graph runs.
        channels: 1 for gray, 3 for RGB.

    Returns:
        A uint8 tensor `(height, width, channels)`. The graph raises
        `tf.errors.InvalidArgumentError`, with the words of `to_levels`, where the values or a
        part of the shape that was unknown are others.

    Raises:
        TypeError: If the tensor does not hold numbers.
        ValueError: If the shape that is known is another.
    """
    import tensorflow as tf

    if not (pixels.dtype.is_integer or pixels.dtype.is_floating):
        raise TypeError(
            "An image in a graph must be a tensor of numbers; `keras_preact.preprocessing."
            f"decode_image` decodes a file's content. Received: {pixels.dtype.name}"
        )
    shape = _SHAPE.format(channels=channels)
    known = pixels.shape
    if not known.is_compatible_with((None, None, channels)) or 0 in (known.rank and known or ()):
        raise ValueError(f"{shape}{known}")
    size = tf.shape(pixels)
    is_image = (tf.rank(pixels) == 3) & (size[-1] == channels) & (tf.size(pixels) > 0)
    checks = [tf.debugging.Assert(is_image, [shape, size])]
    if pixels.dtype != tf.uint8:
        low, high = tf.reduce_min(pixels), tf.reduce_max(pixels)
        # What is not a number is in no range.
        in_range = (low >= 0) & (high <= tf.cast(255, pixels.dtype))
        checks.append(tf.debugging.Assert(in_range, [_RANGE, low, "to", high]))
    if pixels.dtype.is_floating:
        scaled = (high > 0) & (high <= 1)
        dtype = f"dtype {pixels.dtype.name}"
        checks.append(tf.debugging.Assert(~scaled, [_SCALED, low, "to", high, dtype]))
        pixels = tf.round(pixels)
    with tf.control_dependencies([check for check in checks if check is not None]):
        levels = tf.cast(pixels, tf.uint8)
        return tf.ensure_shape(tf.identity(levels), (None, None, channels))
