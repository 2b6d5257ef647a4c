"""Images in the memory of the device, augmented there, on any backend of Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.preprocessing import Preprocessing
from keras_preact.tensor import Tensor
from training.loading.image_set import MAX_PIXELS
from training.recipe import Recipe

# The purpose of a generator's numbers: with it, the seed and the epoch they are drawn from.
_ORDER, _AUGMENT = range(2)
# A square far outside every image.
_NOWHERE = -(2**20)


class DeviceImages(keras.layers.Layer):
    """Images by their number, shifted, mirrored and cut out as a view of each says.

    The images are a weight that is not trained, so that every backend keeps them on the device;
    a batch of views is all that crosses to it. Pixels of a view beyond the border of its image, or
    within its cutout, are zero after normalization, as in the CIFAR recipe of the paper
    (arXiv:1512.03385, 4.2).

    A view is six integers: the number of the image; by how many pixels it is shifted down and to
    the right, negative for up and left; 1 if it is then mirrored, else 0; row and column of the
    center of the square that is cut out last.

    Args:
        images: uint8 `(images, height, width, channels)`, of up to `MAX_PIXELS` pixels in all.
        preprocessing: Gives the color statistics.
        cutout: Side of the square, in pixels; 0 cuts nothing out.
        **options: As for `keras.layers.Layer`.

    Raises:
        ValueError: If the images are not uint8 of rank 4, or have too many pixels to number.
    """

    # Length of a view.
    VIEW = 6

    def __init__(
        self, images: np.ndarray, preprocessing: Preprocessing, *, cutout: int = 0, **options: Any
    ) -> None:
        super().__init__(trainable=False, **options)
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                "`images` must be uint8 (images, height, width, channels). "
                f"Received: {images.dtype} {images.shape}"
            )
        count, self._height, self._width, self._channels = images.shape
        if count * self._height * self._width > MAX_PIXELS:
            raise ValueError(
                f"`images` must have {MAX_PIXELS:,} pixels or fewer. Received: {images.shape}"
            )
        self._preprocessing = preprocessing
        self._cutout = cutout
        # One axis of pixels, so that a single gather picks, shifts and mirrors.
        self._pixels = self.add_weight(
            name="pixels",
            shape=(images.size // self._channels, self._channels),
            dtype="uint8",
            initializer="zeros",
            trainable=False,
        )
        self._pixels.assign(images.reshape(-1, self._channels))

    def call(self, views: Tensor) -> Tensor:
        """Return the images of a batch of views.

        Args:
            views: int32 `(batch, 6)`.

        Returns:
            Normalized images `(batch, height, width, channels)` in the compute dtype.
        """
        image, down, right, mirrored, cut_row, cut_column = (
            ops.reshape(part, (-1, 1, 1)) for part in ops.split(views, self.VIEW, axis=1)
        )
        row = ops.reshape(ops.arange(self._height, dtype="int32"), (1, -1, 1))
        column = ops.reshape(ops.arange(self._width, dtype="int32"), (1, 1, -1))
        shown = ~(self._cut(row, cut_row) & self._cut(column, cut_column))
        row = row - down
        column = ops.where(mirrored > 0, self._width - 1 - column, column) - right
        inside = (row >= 0) & (row < self._height) & (column >= 0) & (column < self._width)
        place = (image * self._height + row) * self._width + column
        pixels = ops.take(self._pixels, ops.where(inside, place, 0), axis=0)
        pixels = self._preprocessing.normalize(ops.cast(pixels, "float32"))
        pixels = ops.where(ops.expand_dims(inside & shown, -1), pixels, 0.0)
        return ops.cast(pixels, self.compute_dtype)

    def _cut(self, place: Tensor, center: Tensor) -> Tensor:
        """Return which rows, or columns, the square covers."""
        start = center - self._cutout // 2
        return (place >= start) & (place < start + self._cutout)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self._height, self._width, self._channels)


def plain_views(places: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return views that show images unchanged.

    Args:
        places: Numbers of the images.

    Returns:
        int32 `(images, 6)`.
    """
    views = np.zeros((len(places), DeviceImages.VIEW), np.int32)
    views[:, 0] = places
    views[:, 4:] = _NOWHERE
    return views


def draw_views(places: Sequence[int], count: int, recipe: Recipe, epoch: int) -> np.ndarray:
    """Draw the views of an epoch: the same for the same seed and epoch, on every backend.

    Args:
        places: Numbers of the training images.
        count: Number of views: passes through the images, each in another order, the last of
            which may be cut short.
        recipe: Gives the seed and the augmentation: `crop`, `pad`, `flip` and `cutout`.
        epoch: Number of the epoch, from 0.

    Returns:
        int32 `(count, 6)`.
    """
    order = np.random.default_rng((recipe.seed, _ORDER, epoch))
    passes = [order.permutation(np.asarray(places)) for _ in range(-(-count // len(places)))]
    views = plain_views(np.concatenate(passes)[:count])
    # All are drawn always: switching one off leaves the others as they are.
    draw = np.random.default_rng((recipe.seed, _AUGMENT, epoch))
    pad = recipe.pad if recipe.crop == "pad" else 0
    shifts, mirrored, centers = draw.random((count, 2)), draw.random(count), draw.random((count, 2))
    views[:, 1:3] = np.floor(shifts * (2 * pad + 1)) - pad
    views[:, 3] = (mirrored < 0.5) & recipe.flip
    if recipe.cutout:
        views[:, 4:] = np.floor(centers * recipe.input_size)
    return views
