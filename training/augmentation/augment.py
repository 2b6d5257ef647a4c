"""Random changes to training images, on whole batches.

Every function takes a seed, an integer tensor `(2,)`, and gives the same result for the same
seed. Images are `(batch, height, width, channels)`, float32, pixels in 0..255 unless said
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from training.augmentation.pixels import as_rows


def pad_and_crop(
    images: tf.Tensor, seed: tf.Tensor, *, pad: int, fill: Sequence[float]
) -> tf.Tensor:
    """Shift each image by up to `pad` pixels in both directions.

    Args:
        images: Batch of images of any dtype.
        seed: Integer tensor `(2,)`.
        pad: Pixels of padding on each side before the crop to the original size.
        fill: Value of the padding in each channel; with the mean color the padding is zero
            once normalized, as in the CIFAR recipe of the paper (arXiv:1512.03385, 4.2).

    Returns:
        The images, of the same shape and dtype.
    """
    batch, height, width, channels = images.shape
    fill = tf.constant(fill, images.dtype)
    rows = as_rows(images) - tf.tile(fill, [width])
    rows = tf.pad(rows, [[0, 0], [pad, pad], [channels * pad, channels * pad]])
    rows += tf.tile(fill, [width + 2 * pad])
    padded = tf.reshape(rows, [batch, height + 2 * pad, width + 2 * pad, channels])
    return random_crop(padded, seed, height=height, width=width)


def random_crop(images: tf.Tensor, seed: tf.Tensor, *, height: int, width: int) -> tf.Tensor:
    """Crop each image at a random place.

    Args:
        images: Batch of images of any dtype.
        seed: Integer tensor `(2,)`.
        height: Height of the result, in pixels, at most that of the images.
        width: Width of the crop.

    Returns:
        A tensor `(batch, height, width, channels)` of the same dtype.
    """
    batch = images.shape[0]
    room = [images.shape[1] - height + 1.0, images.shape[2] - width + 1.0]
    corner = tf.cast(tf.random.stateless_uniform([batch, 2], seed) * room, tf.int32)
    cropped = tf.gather(images, corner[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(cropped, corner[:, 1:] + tf.range(width), axis=2, batch_dims=1)


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror each image left-right with probability 1/2.

    Args:
        images: Batch of images of any dtype.
        seed: Integer tensor `(2,)`.

    Returns:
        The images, of the same shape and dtype.
    """
    batch, _, width, _ = images.shape
    mirrored = tf.random.stateless_uniform([batch, 1], seed) < 0.5
    columns = tf.where(mirrored, tf.range(width - 1, -1, -1), tf.range(width))
    return tf.gather(images, columns, axis=2, batch_dims=1)


def random_box(shape: tf.Tensor, seed: tf.Tensor, *, min_area: float) -> tf.Tensor:
    """Draw a random part of an image, as for training Inception nets (arXiv:1409.4842, 6).

    Its area is a share of the image's, uniform in `min_area`..1, and its aspect ratio lies
    between 3/4 and 4/3.

    Args:
        shape: Integer tensor `(3,)`: height, width and channels of the image.
        seed: Integer tensor `(2,)`.
        min_area: Smallest share of the image's area.

    Returns:
        An int32 tensor `(4,)`: top, left, height and width of the box, in pixels. The whole
        image where no box fits, as in an image one pixel wide.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(min_area, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    # The third value of each is that of the channels.
    return tf.concat([begin[:2], size[:2]], axis=0)


def cutout(images: tf.Tensor, seed: tf.Tensor, *, size: int) -> tf.Tensor:
    """Set a square of each image to zero, the mean color of normalized images.

    The center lies anywhere in the image, so a square at the border is cut (arXiv:1708.04552).

    Args:
        images: Batch of normalized images.
        seed: Integer tensor `(2,)`.
        size: Side of the square, in pixels.

    Returns:
        The images.
    """
    outside = _outside_box(seed, images.shape[:1], images.shape[1:], size, size)
    return tf.reshape(tf.where(outside, as_rows(images), 0.0), images.shape)


def _outside_box(
    seed: tf.Tensor,
    batch: tf.TensorShape,
    shape: tf.TensorShape,
    box_height: tf.Tensor,
    box_width: tf.Tensor,
) -> tf.Tensor:
    """Return a mask: true outside of a box with its center anywhere.

    Args:
        seed: Integer tensor `(2,)`.
        batch: `(batch,)` for a box of each image, `()` for a single one.
        shape: Height, width and channels of an image.
        box_height: Height of all boxes, in pixels.
        box_width: Their width.

    Returns:
        A bool tensor `(*batch, height, width * channels)`, of images as `as_rows` has them.
    """
    height, width, channels = shape
    seeds = tf.unstack(tf.random.split(seed, 2))
    masks = []
    for side, length, box in zip(seeds, (height, width), (box_height, box_width), strict=True):
        center = tf.random.stateless_uniform([*batch, 1], side, 0, length, tf.int32)
        offset = tf.range(length) - center + box // 2
        masks.append((offset >= 0) & (offset < box))
    rows, columns = masks
    return ~(rows[..., tf.newaxis] & tf.repeat(columns, channels, axis=-1)[..., tf.newaxis, :])


def mixup(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Average each image and its label with another of the batch (arXiv:1710.09412).

    The batch comes shuffled, so each image is paired with the one at the other end of it.

    Args:
        images: Batch of images.
        labels: `(batch, classes)`, float32.
        seed: Integer tensor `(2,)`.
        alpha: The weight of the batch is drawn from Beta(alpha, alpha).

    Returns:
        The images and the labels.
    """
    weight = _beta(seed, alpha)
    return _blend(images, weight), _blend(labels, weight)


def cutmix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Paste a box of another image of the batch into each image (arXiv:1905.04899).

    The labels are averaged by the share of the pixels. The box lies at the same place in the
    whole batch, and images are paired as in `mixup`.

    Args:
        images: Batch of images.
        labels: `(batch, classes)`, float32.
        seed: Integer tensor `(2,)`.
        alpha: The share of the image that is kept, before the box is cut at the border, is
            drawn from Beta(alpha, alpha).

    Returns:
        The images and the labels.
    """
    _, height, width, _ = images.shape
    share_seed, place_seed = tf.unstack(tf.random.split(seed, 2))
    side = tf.sqrt(1 - _beta(share_seed, alpha))
    box = [tf.cast(side * length, tf.int32) for length in (height, width)]
    kept = _outside_box(place_seed, images.shape[:0], images.shape[1:], *box)
    rows = as_rows(images)
    mixed = tf.reshape(tf.where(kept, rows, tf.reverse(rows, axis=[0])), images.shape)
    return mixed, _blend(labels, tf.reduce_mean(tf.cast(kept, tf.float32)))


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply mixup or CutMix, whichever is on; if both are, one of them by the toss of a coin.

    Args:
        images: Batch of images.
        labels: `(batch, classes)`, float32.
        seed: Integer tensor `(2,)`.
        mixup_alpha: Parameter of `mixup`; 0 means off.
        cutmix_alpha: Parameter of `cutmix`; 0 means off.

    Returns:
        The images and the labels.
    """
    coin_seed, seed = tf.unstack(tf.random.split(seed, 2))
    if mixup_alpha and cutmix_alpha:
        return tf.cond(
            tf.random.stateless_uniform([], coin_seed) < 0.5,
            lambda: mixup(images, labels, seed, alpha=mixup_alpha),
            lambda: cutmix(images, labels, seed, alpha=cutmix_alpha),
        )
    if mixup_alpha:
        return mixup(images, labels, seed, alpha=mixup_alpha)
    if cutmix_alpha:
        return cutmix(images, labels, seed, alpha=cutmix_alpha)
    return images, labels


def _blend(values: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Blend each element of a batch with the one at the other end of the batch."""
    return weight * values + (1 - weight) * tf.reverse(values, axis=[0])


def _beta(seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """Draw a scalar from Beta(alpha, alpha)."""
    gamma_seed, uniform_seed = tf.unstack(tf.random.split(seed, 2))
    # The quotient of two Gamma(alpha) draws, as Gamma(alpha + 1) * uniform ** (1 / alpha) in
    # logarithms: for a small alpha both draws would often round to zero.
    gammas = tf.math.log(tf.random.stateless_gamma([2], gamma_seed, alpha + 1))
    uniforms = tf.math.log(tf.random.stateless_uniform([2], uniform_seed, minval=1e-30))
    logs = gammas + uniforms / alpha
    return tf.sigmoid(logs[0] - logs[1])
