"""Turning of images in a TensorFlow graph, as the camera's orientation says."""

from __future__ import annotations

from keras_preact.tensor import Tensor

# Orientations as EXIF numbers them, after transposing those from 5 on.
_TRANSPOSED = 5
_MIRRORED, _UPSIDE_DOWN = (2, 3, 6, 7), (3, 4, 7, 8)


def upright_shape(shape: Tensor, orientation: Tensor) -> Tensor:
    """Return the shape that a stored image has once it is upright.

    Args:
        shape: Height, width and channels as stored, int32.
        orientation: int32 in 1..8.

    Returns:
        Height, width and channels, int32.
    """
    import tensorflow as tf

    return tf.where(orientation >= _TRANSPOSED, tf.gather(shape, [1, 0, 2]), shape)


def stored_box(box: Tensor, shape: Tensor, orientation: Tensor) -> Tensor:
    """Return where a part of an upright image lies in the stored one.

    Args:
        box: Top, left, height and width in the upright image, int32.
        shape: Height, width and channels of the upright image, int32.
        orientation: int32 in 1..8.

    Returns:
        Top, left, height and width in the stored image, int32.
    """
    import tensorflow as tf

    top, left, height, width = tf.unstack(box)
    top = tf.where(_is_in(orientation, _UPSIDE_DOWN), shape[0] - top - height, top)
    left = tf.where(_is_in(orientation, _MIRRORED), shape[1] - left - width, left)
    stored = tf.stack([top, left, height, width])
    return tf.where(orientation >= _TRANSPOSED, tf.gather(stored, [1, 0, 3, 2]), stored)


def oriented(image: Tensor, orientation: Tensor) -> Tensor:
    """Turn an image upright.

    Args:
        image: TensorFlow tensor `(height, width, channels)`, as stored.
        orientation: int32 in 1..8, as EXIF numbers them.

    Returns:
        The image as it was seen, `(width, height, channels)` for orientations from 5 on.
    """
    import tensorflow as tf

    def turn() -> tf.Tensor:
        turned = tf.cond(
            orientation >= _TRANSPOSED, lambda: tf.transpose(image, (1, 0, 2)), lambda: image
        )
        for axis, orientations in ((1, _MIRRORED), (0, _UPSIDE_DOWN)):
            turned = tf.cond(
                _is_in(orientation, orientations),
                lambda x=turned, axis=axis: tf.reverse(x, [axis]),
                lambda x=turned: x,
            )
        return turned

    turned = tf.cond(orientation > 1, turn, lambda: image)
    return tf.ensure_shape(turned, (None, None, image.shape[-1]))


def _is_in(orientation: Tensor, orientations: tuple[int, ...]) -> Tensor:
    import tensorflow as tf

    return tf.reduce_any(orientation == tf.constant(orientations))
