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

from training.colors import luma_of

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
        images: `(batch, height, width, channels)`, float32, pixels in 0..255.
        seed: Integer tensor `(2,)`.
        layers: Number of operations for each image.
        magnitude: Their strength, 0..10.

    Returns:
        The images: whole numbers in 0..255, float32.
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

    images = tf.clip_by_value(tf.round(images), 0.0, 255.0)
    return tf.map_fn(augment, (images, choices, levels), fn_output_signature=images.dtype)


def _apply(image: tf.Tensor, choice: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    branches = [lambda operation=operation: operation(image, level) for operation in OPERATIONS]
    changed = tf.ensure_shape(tf.switch_case(choice, branches), image.shape)
    return tf.clip_by_value(tf.round(changed), 0.0, 255.0)


# Each operation takes an image `(height, width, channels)` of whole numbers in 0..255, float32,
# and a level in -1..1. Where only one direction makes sense, the sign is ignored.


def _identity(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    del level
    return image


def _autocontrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0..255."""
    del level
    low = tf.reduce_min(image, axis=[0, 1])
    high = tf.reduce_max(image, axis=[0, 1])
    return tf.where(high > low, (image - low) * tf.math.divide_no_nan(255.0, high - low), image)


def _equalize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Make the histogram of each channel as flat as it can be, in the way Pillow does."""
    del level
    channels = [_equalize_channel(channel) for channel in tf.unstack(image, axis=-1)]
    return tf.stack(channels, axis=-1)


def _equalize_channel(channel: tf.Tensor) -> tf.Tensor:
    values = tf.cast(channel, tf.int32)
    counts = tf.math.bincount(tf.reshape(values, [-1]), minlength=256)
    brightest = counts[tf.reduce_max(values)]
    step = (tf.reduce_sum(counts) - brightest) // 255
    table = tf.minimum((tf.cumsum(counts, exclusive=True) + step // 2) // tf.maximum(step, 1), 255)
    return tf.cast(tf.where(step > 0, tf.gather(table, values), values), channel.dtype)


def _rotate(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    cos, sin = tf.cos(level * MAX_ROTATION), tf.sin(level * MAX_ROTATION)
    return _affine(image, [[cos, -sin], [sin, cos]])


def _shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _affine(image, [[1.0, level * MAX_SHEAR], [0.0, 1.0]])


def _shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _affine(image, [[1.0, 0.0], [level * MAX_SHEAR, 1.0]])


def _translate_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    shift = level * MAX_TRANSLATION * image.shape[1]
    return _affine(image, [[1.0, 0.0], [0.0, 1.0]], shift=(shift, 0.0))


def _translate_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    shift = level * MAX_TRANSLATION * image.shape[0]
    return _affine(image, [[1.0, 0.0], [0.0, 1.0]], shift=(0.0, shift))


def _affine(
    image: tf.Tensor, matrix: list[list], shift: tuple[tf.Tensor | float, ...] = (0.0, 0.0)
) -> tf.Tensor:
    """Take pixel (x, y) from `matrix` (x, y) + `shift`, both measured from the centre."""
    height, width, _ = image.shape
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    (a, b), (c, d) = matrix
    start_x = centre_x - a * centre_x - b * centre_y + shift[0]
    start_y = centre_y - c * centre_x - d * centre_y + shift[1]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([[a, b, start_x, c, d, start_y, 0.0, 0.0]]),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=FILL,
    )[0]


def _solarize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Invert the bright pixels."""
    threshold = 256 * (1 - tf.abs(level))
    return tf.where(image < threshold, image, 255 - image)


def _posterize(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Set the lowest bits to zero."""
    step = 2 ** tf.round(tf.abs(level) * MAX_LOST_BITS)
    return image // step * step


def _color(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _enhance(image, luma_of(image), level)


def _contrast(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _enhance(image, tf.reduce_mean(luma_of(image)), level)


def _brightness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    return _enhance(image, 0.0, level)


def _sharpness(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Blend with a smoothed image; the pixels of the border stay as they are."""
    channels = image.shape[-1]
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[..., tf.newaxis, tf.newaxis], [1, 1, channels, 1])
    smooth = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, [1, 1, 1, 1], "VALID")[0]
    border = [[1, 1], [1, 1], [0, 0]]
    inside = tf.pad(tf.ones_like(smooth, tf.bool), border)
    return _enhance(image, tf.where(inside, tf.pad(smooth, border), image), level)


def _enhance(image: tf.Tensor, plain: tf.Tensor | float, level: tf.Tensor) -> tf.Tensor:
    """Move an image away from a plainer one, or towards it for negative levels."""
    return plain + (1 + level * MAX_ENHANCEMENT) * (image - plain)


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
