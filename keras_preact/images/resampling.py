"""Pillow's image resizing in a TensorFlow graph, to the bit.

timm's nets were trained and evaluated on images that Pillow resized. TensorFlow's own
anti-aliased resizing has the same kernels, but works in floats from end to end. Pillow resizes
along one axis, rounds to whole gray levels and cuts off what lies outside 0..255, then does the
same along the other, in 32-bit integers. Where bicubic interpolation overshoots, that is up to 21
levels away from `tf.image.resize` on photographs. The method is that of
https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from keras_preact.images.tracing import traced_once
from keras_preact.tensor import Tensor

# Weights are whole numbers of 2**-22: with them, 255 and the sign, sums fit 32 bits.
FRACTION_BITS = 22


class Kernel(NamedTuple):
    """Interpolation kernel: its value at each distance, and the distance at which it ends."""

    value: Callable[[Tensor], Tensor]
    radius: float


def _triangle(distance: Tensor) -> Tensor:
    return 1 - distance


def cubic(distance: Tensor, where: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Evaluate Keys's cubic convolution kernel (1981) with a = -1/2.

    Args:
        distance: Distances from 0 to 2, an array or tensor.
        where: `numpy.where` or `tf.where`.
    """
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = -0.5 * (((distance - 5) * distance + 8) * distance - 4)
    return where(distance < 1, near, far)


def _cubic(distance: Tensor) -> Tensor:
    import tensorflow as tf

    return cubic(distance, tf.where)


KERNELS = {"bilinear": Kernel(_triangle, 1.0), "bicubic": Kernel(_cubic, 2.0)}


@traced_once
def resize_and_crop(
    image: Tensor, target: Tensor, corner: Tensor, size: int, interpolation: str
) -> Tensor:
    """Resize an image as `PIL.Image.resize` does, and crop it. Only the crop is computed.

    Args:
        image: uint8 TensorFlow tensor `(height, width, channels)`.
        target: int32 tensor `(2,)`: height and width to resize to, in pixels.
        corner: int32 tensor `(2,)`: top and left of the crop in the resized image.
        size: Height and width of the crop. It lies inside the resized image.
        interpolation: A key of `KERNELS`.

    Returns:
        A uint8 tensor `(size, size, channels)`.
    """
    import tensorflow as tf

    kernel = KERNELS[interpolation]
    height, width, _ = tf.unstack(tf.shape(image))
    # Since version 13, Pillow begins with the rows of an image that loses most of them.
    lost = height - target[0]
    rows_first = (lost > 0) & (lost > 2 * (width - target[1]))
    first, second = tf.unstack(tf.where(rows_first, [0, 1], [1, 0]))

    def turned(image: Tensor) -> Tensor:
        return tf.transpose(image, [1, 0, 2])

    image = tf.cond(rows_first, lambda: image, lambda: turned(image))
    image = turned(_resample(image, target[first], corner[first], size, kernel))
    image = _resample(image, target[second], corner[second], size, kernel)
    return tf.cond(rows_first, lambda: turned(image), lambda: image)


def _resample(image: Tensor, target: Tensor, first: Tensor, count: int, kernel: Kernel) -> Tensor:
    """Return rows `first` to `first + count` of the `target` rows of the resized image."""
    import tensorflow as tf

    height, width, channels = tf.unstack(tf.shape(image))
    weights = _weights(height, target, first, count, kernel)
    sums = tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=weights.indices,
        a_values=weights.values,
        a_shape=weights.dense_shape,
        b=tf.cast(tf.reshape(image, [height, width * channels]), tf.int32),
    )
    half = 1 << (FRACTION_BITS - 1)
    levels = tf.saturate_cast(tf.bitwise.right_shift(sums + half, FRACTION_BITS), tf.uint8)
    return tf.reshape(levels, [count, width, channels])


def _weights(length: Tensor, target: Tensor, first: Tensor, count: int, kernel: Kernel) -> Tensor:
    """Return the weight of each of `length` rows in each wanted row, int32 `(count, length)`."""
    import tensorflow as tf

    scale = tf.cast(length, tf.float64) / tf.cast(target, tf.float64)
    # Anti-aliasing: where the image shrinks, the kernel widens.
    stretch = tf.maximum(scale, 1.0)
    support = kernel.radius * stretch
    center = (tf.cast(first + tf.range(count), tf.float64)[:, tf.newaxis] + 0.5) * scale
    start = tf.maximum(tf.cast(center - support + 0.5, tf.int32), 0)
    stop = tf.minimum(tf.cast(center + support + 0.5, tf.int32), length)
    rows = start + tf.range(tf.reduce_max(stop - start))
    distance = tf.abs(tf.cast(rows, tf.float64) - center + 0.5) / stretch
    used = (rows < stop) & (distance < kernel.radius)
    values = tf.where(used, kernel.value(distance), tf.zeros([], tf.float64))
    values /= tf.reduce_sum(values, axis=1, keepdims=True)
    whole = tf.cast(values * 2.0**FRACTION_BITS + 0.5 * tf.sign(values), tf.int32)
    indices = tf.stack([tf.where(used)[:, 0], tf.cast(rows[used], tf.int64)], axis=1)
    return tf.SparseTensor(indices, whole[used], tf.cast([count, length], tf.int64))
