"""Random color changes as one affine map per image, applied in one pass."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from training.augmentation.pixels import reduce_pixels

# Weights of red, green and blue in the luma of ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
PCA_DEVIATIONS = (0.2175, 0.0188, 0.0045)
PCA_COMPONENTS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
# Pixels that one product changes: a matrix of 3x3 leaves most of the processor's lanes empty.
PIXELS = 4


class ColorMap(NamedTuple):
    """Affine map of the pixels of an image: `pixel @ matrix + offset`.

    Attributes:
        matrix: float32 `(batch, channels, channels)`, or `(1, channels, channels)` if it is the
            same for all images.
        offset: float32 `(batch, channels)`, or `(1, channels)`.
    """

    matrix: tf.Tensor
    offset: tf.Tensor

    def then(self, following: ColorMap) -> ColorMap:
        """Return one map for this map and another after it."""
        moved = tf.matmul(self.offset[:, tf.newaxis], following.matrix)[:, 0]
        return ColorMap(self.matrix @ following.matrix, moved + following.offset)

    def apply(self, images: tf.Tensor) -> tf.Tensor:
        """Change a batch of images.

        Args:
            images: `(batch, height, width, channels)`, float32.

        Returns:
            A tensor of the same shape and dtype.
        """
        batch, height, width, channels = images.shape
        together = math.gcd(height * width, PIXELS)
        # Blocks along the diagonal, one for each of the pixels.
        blocks = tf.einsum("ij,bcd->bicjd", tf.eye(together), self.matrix)
        matrix = tf.reshape(blocks, [-1, together * channels, together * channels])
        pixels = tf.reshape(images, [batch, height * width // together, together * channels])
        changed = pixels @ matrix + tf.tile(self.offset, [1, together])[:, tf.newaxis]
        return tf.reshape(changed, images.shape)


def color_jitter(images: tf.Tensor, seed: tf.Tensor, *, strength: float) -> ColorMap:
    """Draw changes of brightness, contrast and saturation for each image.

    Each is blended with its opposite (black, the mean luma, the luma of the pixel) by a factor
    uniform in `1 - strength`..`1 + strength`, as in the authors' ImageNet training
    (https://github.com/facebookarchive/fb.resnet.torch). There the three are applied in a random
    order. None of them changes what the next one blends with but by a factor, so that without
    rounding and clipping every order gives this one product.

    Args:
        images: Batch of images `(batch, height, width, channels)`, float32, with 1 or 3 channels.
        seed: Integer tensor `(2,)`.
        strength: Largest change of each factor.

    Returns:
        The map of each image.
    """
    batch, _, _, channels = images.shape
    factors = tf.random.stateless_uniform([3, batch, 1, 1], seed, 1 - strength, 1 + strength)
    brightness, contrast, saturate = tf.unstack(factors)
    matrix = brightness * contrast * saturation(saturate, channels)
    gray = brightness[:, 0] * (1 - contrast[:, 0]) * mean_luma(images)
    return ColorMap(matrix, tf.tile(gray, [1, channels]))


def lighting(images: tf.Tensor, seed: tf.Tensor, *, deviation: float) -> ColorMap:
    """Draw noise along the principal components of the colors of ImageNet for each image.

    The method is that of AlexNet (Krizhevsky et al. 2012, 4.1), with the components published in
    https://github.com/facebookarchive/fb.resnet.torch.

    Args:
        images: Batch of RGB images, pixels in 0..255.
        seed: Integer tensor `(2,)`.
        deviation: Standard deviation of the noise, in units of each component's own; 0.1 in
            the paper.

    Returns:
        The map of each image.

    Raises:
        ValueError: If the images are not RGB.
    """
    if images.shape[-1] != 3:
        raise ValueError(f"`lighting` needs RGB images. Received: {images.shape[-1]} channel(s)")
    amounts = tf.random.stateless_normal([images.shape[0], 3], seed, stddev=deviation)
    shift = 255 * (amounts * PCA_DEVIATIONS) @ tf.transpose(tf.constant(PCA_COMPONENTS))
    return ColorMap(tf.eye(3)[tf.newaxis], shift)


def saturation(factor: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the matrix that blends the pixels of an image with their luma.

    Args:
        factor: Share of the pixels, float32 `(..., 1, 1)`; above 1 they move away from the luma.
        channels: 1 for gray, which nothing changes, 3 for RGB.

    Returns:
        A float32 tensor `(..., channels, channels)`; a pixel is multiplied with it from the left.
    """
    return factor * tf.eye(channels) + (1 - factor) * _luma_weights(channels)


def mean_luma(images: tf.Tensor) -> tf.Tensor:
    """Return the mean brightness of each image (ITU-R BT.601).

    Args:
        images: `(batch, height, width, channels)`, float32, 1 or 3 channels.

    Returns:
        A float32 tensor `(batch, 1)`.
    """
    means = reduce_pixels(tf.reduce_mean, images)
    return means @ _luma_weights(images.shape[-1])


def _luma_weights(channels: int) -> tf.Tensor:
    return tf.constant(LUMA if channels == 3 else (1.0,), shape=[channels, 1])
