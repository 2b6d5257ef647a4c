"""RandAugment (arXiv:1909.13719): random operations of one common strength.

Keras has a layer of this name. It applies the same operations to the whole batch, works each
layer out for every image to keep one of them, and draws from a generator with a state, with which
a run cannot be taken up at a later step. So the operations of the paper are written out here.

The ranges are those of AutoAugment (arXiv:1805.09501, table 6), whose ends are reached at
magnitude 10. As in timm and torchvision, every operation grows stronger with the magnitude, and
those that can go both ways take either with equal chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from training.augmentation.colors import ColorMap, mean_luma, saturation
from training.augmentation.pixels import as_rows, reduce_pixels, to_uint8

MAX_MAGNITUDE = 10.0
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.3
# 150 of the 331 pixels of AutoAugment's images.
MAX_TRANSLATION = 150 / 331
MAX_ENHANCEMENT = 0.9
MAX_LOST_BITS = 4
# Gray, for what an operation leaves empty.
FILL = 128.0


def rand_augment(images: tf.Tensor, seed: tf.Tensor, *, layers: int, magnitude: float) -> tf.Tensor:
    """Apply random operations to each image, one after the other.

    Args:
        images: `(batch, height, width, channels)`, uint8.
        seed: Integer tensor `(2,)`.
        layers: Number of operations for each image.
        magnitude: Their strength, 0..10.

    Returns:
        The images, of the same shape and dtype.
    """
    batch = images.shape[0]
    choice_seed, sign_seed = tf.unstack(tf.random.split(seed, 2))
    choices = tf.random.stateless_uniform(
        [batch, layers], choice_seed, 0, len(OPERATIONS), tf.int32
    )
    negative = tf.random.stateless_uniform([batch, layers], sign_seed) < 0.5
    level = magnitude / MAX_MAGNITUDE
    levels = tf.where(negative, -level, level)

    def augment(example: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, choices, levels = example
        for layer in range(layers):
            image = _apply(image, choices[layer], levels[layer])
        return image

    return tf.map_fn(augment, (images, choices, levels), fn_output_signature=images.dtype)


def _apply(image: tf.Tensor, choice: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    pixels = tf.cast(image, tf.float32)
    branches = [lambda operation=operation: operation(pixels, level) for operation in OPERATIONS]
    return to_uint8(tf.ensure_shape(tf.switch_case(choice, branches), image.shape))


# Each operation takes an image `(height, width, channels)` of whole numbers in 0..255, float32,
# and a level in -1..1. Where only one direction makes sense, the sign is ignored.


def _identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    del level
    return image


def _autocontrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0..255."""
    del level
    low, high = (reduce_pixels(reduce, image) for reduce in (tf.reduce_min, tf.reduce_max))
    # A channel of a single value stays as it is.
    flat = low == high
    low, high = tf.where(flat, 0.0, low), tf.where(flat, 255.0, high)
    width = image.shape[1]
    stretched = (as_rows(image) - tf.tile(low, [width])) * tf.tile(255.0 / (high - low), [width])
    return tf.reshape(stretched, image.shape)


def _equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Make the histogram of each channel as flat as it can be, in the way Pillow does."""
    del level
    _, width, channels = image.shape
    # The values of each channel lie behind those of the one before: a single table for all.
    values = as_rows(tf.cast(image, tf.int32)) + tf.tile(256 * tf.range(channels), [width])
    size = 256 * channels
    counts = tf.math.bincount(tf.reshape(values, [-1]), minlength=size, maxlength=size)
    table = _equalizing_table(tf.reshape(counts, [channels, 256]))
    # A third faster than `tf.gather`, which copies every number as it would a row.
    equalized = tf.gather_nd(tf.reshape(table, [-1]), values[..., tf.newaxis])
    return tf.reshape(equalized, image.shape)


def _equalizing_table(counts: tf.Tensor) -> tf.Tensor:
    """Return the new value of each value 0..255 per channel, float32 `(channels, 256)`."""
    values = tf.range(256)
    brightest = tf.reduce_max(tf.where(counts > 0, values, 0), axis=1)
    others = tf.reduce_sum(counts, axis=1) - tf.gather(counts, brightest, batch_dims=1)
    step = (others // 255)[:, tf.newaxis]
    darker = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((darker + step // 2) // tf.maximum(step, 1), 255)
    return tf.cast(tf.where(step > 0, table, values), tf.float32)


def _rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    height, width, _ = image.shape
    cos, sin = tf.cos(level * MAX_ROTATION), tf.sin(level * MAX_ROTATION)
    # Pixel (x, y) is taken from where it is turned to, both measured from the center.
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    start_x = center_x - cos * center_x + sin * center_y
    start_y = center_y - sin * center_x - cos * center_y
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([[cos, -sin, start_x, sin, cos, start_y, 0.0, 0.0]]),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=FILL,
    )[0]


def _shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    height = image.shape[0]
    return _shift_rows(image, level * MAX_SHEAR * (tf.range(float(height)) - (height - 1) / 2))


def _shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _transpose(_shear_x(_transpose(image), level))


def _translate_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _translate(image, level, axis=1)


def _translate_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _translate(image, level, axis=0)


def _translate(image: tf.Tensor, level: tf.Tensor, axis: int) -> tf.Tensor:
    """Take each pixel from further on along an axis, between two pixels the blend of both."""
    size = image.shape[axis]
    shift = level * MAX_TRANSLATION * size
    whole = tf.floor(shift)
    start = tf.cast(whole, tf.int32)
    # What lies outside on one side. On the other, nothing is missing.
    outside = tf.pad([tf.maximum([-start, start + 1], 0)], [[axis, 2 - axis], [0, 0]])
    padded = tf.pad(image, outside, constant_values=FILL)
    near, far = (
        tf.slice(padded, tf.one_hot(axis, 3, tf.maximum(start, 0) + step, 0), image.shape)
        for step in (0, 1)
    )
    return near + (shift - whole) * (far - near)


def _transpose(image: tf.Tensor) -> tf.Tensor:
    return tf.transpose(image, [1, 0, 2])


def _shift_rows(image: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Take pixel (x, y) from (x + `shifts[y]`, y), between two pixels the blend of both."""
    height, width, channels = image.shape
    whole = tf.floor(shifts)
    share = (shifts - whole)[:, tf.newaxis]
    # A pixel on either side stands for all that lies outside.
    padded = tf.pad(image, [[0, 0], [1, 1], [0, 0]], constant_values=FILL)
    columns = tf.cast(whole, tf.int32)[:, tf.newaxis] + tf.range(1, width + 2)
    shifted = tf.gather(padded, tf.clip_by_value(columns, 0, width + 1), axis=1, batch_dims=1)
    rows = as_rows(shifted)
    near, far = rows[:, :-channels], rows[:, channels:]
    return tf.reshape(near + share * (far - near), image.shape)


def _solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Invert the bright pixels."""
    threshold = 256 * (1 - tf.abs(level))
    return tf.abs(255 * tf.cast(image >= threshold, image.dtype) - image)


def _posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Set the lowest bits to zero."""
    step = 2 ** tf.round(tf.abs(level) * MAX_LOST_BITS)
    return image // step * step


def _color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    channels = image.shape[-1]
    matrix = saturation(_factor(level), channels)
    return ColorMap(matrix[tf.newaxis], tf.zeros([1, channels])).apply(image[tf.newaxis])[0]


def _contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _enhance(image, mean_luma(image[tf.newaxis])[0], level)


def _brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _enhance(image, 0.0, level)


def _sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Blend with a smoothed image; the pixels of the border stay as they are."""
    channels = image.shape[-1]
    rows = as_rows(image)
    # The pixel itself weighs 5, its eight neighbors 1 each.
    columns = rows[:-2] + rows[1:-1] + rows[2:]
    sums = columns[:, : -2 * channels] + columns[:, channels:-channels] + columns[:, 2 * channels :]
    inside = rows[1:-1, channels:-channels]
    change = _enhance(inside, (sums + 4 * inside) / 13, level) - inside
    return tf.reshape(rows + tf.pad(change, [[1, 1], [channels, channels]]), image.shape)


def _enhance(image: tf.Tensor, plain: tf.Tensor | float, level: tf.Tensor) -> tf.Tensor:
    """Move an image away from a plainer one, or towards it for negative levels."""
    return plain + _factor(level) * (image - plain)


def _factor(level: tf.Tensor) -> tf.Tensor:
    return 1 + level * MAX_ENHANCEMENT


OPERATIONS: tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], ...] = (
    _identity,
    _autocontrast,
    _equalize,
    _rotate,
    _solarize,
    _color,
    _posterize,
    _contrast,
    _brightness,
    _sharpness,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
)
