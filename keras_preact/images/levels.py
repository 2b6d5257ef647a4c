"""Gray levels of images: the same checks and rounding for arrays and in a TensorFlow graph."""

from __future__ import annotations

import numpy as np

from keras_preact.tensor import Tensor

_SHAPE = "An image must have the shape (height, width, {channels}). Received: shape "
_RANGE = "Pixels must be in 0..255. Received: "
_SCALED = "Pixels must be in 0..255; these look scaled to 0..1 already. Received: "


def is_numeric(dtype: np.dtype) -> bool:
    """Return whether a dtype is one of real numbers, of NumPy or of `ml_dtypes` (bfloat16)."""
    # NumPy takes those of others for structures of bytes, which it can convert.
    return dtype.kind in "iuf" or dtype.kind == "V" and np.can_cast(dtype, np.float64)


def _is_floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.kind == "V" and not np.can_cast(dtype, np.int64)


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
    if _is_floating(pixels.dtype) and 0 < high <= 1:
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
    shape, known = _SHAPE.format(channels=channels), pixels.shape
    is_empty = known.rank is not None and 0 in known.as_list()
    if is_empty or not known.is_compatible_with((None, None, channels)):
        raise ValueError(f"{shape}{known}")
    size = tf.shape(pixels)
    is_image = (tf.rank(pixels) == 3) & (size[-1] == channels) & (tf.size(pixels) > 0)
    pixels = _require(pixels, is_image, shape, size)
    if pixels.dtype != tf.uint8:
        low, high = (
            tf.cast(reduce(pixels), tf.float64) for reduce in (tf.reduce_min, tf.reduce_max)
        )
        # NaN is in no range.
        pixels = _require(pixels, (low >= 0) & (high <= 255), _RANGE, low, "to", high)
    if pixels.dtype.is_floating:
        dtype = f"dtype {pixels.dtype.name}"
        pixels = _require(pixels, (high <= 0) | (high > 1), _SCALED, low, "to", high, dtype)
        pixels = tf.round(pixels)
    return tf.ensure_shape(tf.cast(pixels, tf.uint8), (None, None, channels))


def _require(tensor: Tensor, holds: Tensor, *message: Tensor) -> Tensor:
    """Return a tensor that can be had only where a condition holds."""
    import tensorflow as tf

    with tf.control_dependencies([tf.debugging.Assert(holds, message)]):
        return tf.identity(tensor)
