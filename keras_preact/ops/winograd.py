"""3x3 convolutions in a quarter of the multiplications (Lavin and Gray, arXiv:1509.09308).

F(4x4, 3x3): the output is made in tiles of 4x4 pixels, each of which depends on 6x6 pixels of the
input. Inputs and kernel are transformed to 36 points, at which the convolution is a matrix product
over the channels. A last transform gives the pixels. Rounding counts up to 31 times as much as in
the convolution itself: in float32 about 1e-5 of the largest value.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_preact.ops.choices import enabled
from keras_preact.ops.custom_gradient import depends_on, value_of
from keras_preact.tensor import Tensor

# With fewer channels, in or out, the transforms cost more than the products save.
LEAST_CHANNELS = 128
# Below this share of the tiles within the maps, the products save too little.
_LEAST_WITHIN = 2 / 3
# With fewer tiles in a batch, the transforms of the kernel cost more than the products save.
_LEAST_TILES = 32
# Side of a tile, and of its part of the inputs, in pixels.
_TILE, SEEN = 4, 6
# The transforms of one axis: of the pixels seen, of the kernel, and back to a tile. The points are
# 0, 1, -1, 2, -2 and infinity.
_FROM_PIXELS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    "float64",
)
_FROM_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    "float64",
)
_TO_PIXELS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    "float64",
)


def transformed_kernel(kernel: np.ndarray) -> np.ndarray:
    """Transform a kernel to the 36 points.

    Args:
        kernel: `(3, 3, channels, filters)`.

    Returns:
        float32 `(36, channels, filters)`.
    """
    points = np.einsum("ai,bj,ijcf->abcf", _FROM_KERNEL, _FROM_KERNEL, kernel, optimize=True)
    return points.reshape(SEEN**2, *kernel.shape[2:]).astype("float32")


def winograd(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Convolve by 3x3 with stride 1, padded by a pixel of zeros on every side.

    Args:
        inputs: float32 `(batch, height, width, channels)`; all but the batch known.
        kernel: Result of `transformed_kernel`.

    Returns:
        float32 `(batch, height, width, filters)`.
    """
    return _maps(ops.matmul(_points_seen(inputs), kernel), inputs)


def winograd_pays(shape: tuple[int | None, int | None, int | None, int], filters: int) -> bool:
    """Return whether training on a CPU is faster by this algorithm (`benchmarks/winograd.py`).

    Args:
        shape: Shape of the inputs, `(batch, height, width, channels)`. A batch of unknown size
            counts as a large one.
        filters: Output channels.
    """
    batch, height, width, channels = shape
    if height is None or width is None or not enabled("winograd"):
        return False
    if min(channels, filters) < LEAST_CHANNELS:
        return False
    tiles = -(-height // _TILE) * -(-width // _TILE)
    if batch is not None and batch * tiles < _LEAST_TILES:
        return False
    return height * width >= _LEAST_WITHIN * tiles * _TILE**2


def trainable_winograd(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Convolve as `winograd` does, on TensorFlow, with gradients by the same algorithm.

    Args:
        inputs: float32 `(batch, height, width, channels)`; all but the batch known.
        kernel: float32 `(3, 3, channels, filters)`.

    Returns:
        float32 `(batch, height, width, filters)`.
    """
    return _trainable_winograd()(inputs, value_of(kernel))


@functools.cache
def _trainable_winograd() -> Callable[[Tensor, Tensor], Tensor]:
    import tensorflow as tf

    @tf.custom_gradient
    def convolve(inputs: Tensor, kernel: Tensor) -> Tensor:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            of_inputs = _gradient_of_inputs(depends_on(upstream, kernel), upstream)
            return of_inputs, _gradient_of_kernel(depends_on(of_inputs, inputs), upstream)

        # After the points, not the inputs: TensorFlow merges no ReLU that others wait for.
        seen = _points_seen(inputs)
        at_points = _kernel_at_points(depends_on(seen, kernel), _FROM_KERNEL)
        return _maps(tf.matmul(seen, at_points), inputs), gradient

    return convolve


def _gradient_of_inputs(kernel: Tensor, upstream: Tensor) -> Tensor:
    """Return the loss's gradient by the inputs: a convolution with the kernel turned around."""
    import tensorflow as tf

    turned = _kernel_at_points(kernel, _FROM_KERNEL[:, ::-1])
    return _maps(tf.matmul(_points_seen(upstream), turned, transpose_b=True), upstream)


def _kernel_at_points(kernel: Tensor, transform: np.ndarray) -> Tensor:
    """Transform a kernel to the points, in the graph: `(36, channels, filters)`."""
    return _combine(transform, ops.reshape(kernel, (9, *kernel.shape[2:])))


def _gradient_of_kernel(inputs: Tensor, upstream: Tensor) -> Tensor:
    """Return the loss's gradient by the kernel, `(3, 3, channels, filters)`."""
    import tensorflow as tf

    tiles = _combine(_TO_PIXELS.T, _windows(upstream, size=_TILE, before=0))
    products = tf.matmul(_points_seen(inputs), tiles, transpose_a=True)
    kernel = _combine(_FROM_KERNEL.T, products)
    return ops.reshape(kernel, (3, 3, *kernel.shape[1:]))


def _combine(transform: np.ndarray, values: Tensor) -> Tensor:
    """Transform values along both axes; their first axis is that of the pixels or points."""
    both = np.kron(transform, transform).astype("float32")
    columns = ops.matmul(ops.convert_to_tensor(both), ops.reshape(values, (both.shape[1], -1)))
    return ops.reshape(columns, (both.shape[0], -1, values.shape[-1]))


def _points_seen(maps: Tensor) -> Tensor:
    """Transform each tile's part of the inputs to the points: `(36, tiles, channels)`."""
    return _combine(_FROM_PIXELS, _windows(maps, size=SEEN, before=1))


def _windows(maps: Tensor, size: int, before: int) -> Tensor:
    """Gather a window of pixels per tile, `(size * size, tiles, channels)`, zero beyond the edges.

    Args:
        maps: `(batch, height, width, channels)`.
        size: Side of a window, in pixels.
        before: Pixels by which a window starts before its tile, down and across.
    """
    _, height, width, channels = maps.shape
    tiles = [_TILE * np.arange(-(-side // _TILE)) for side in (height, width)]
    window = np.arange(size) - before
    row = (window[:, None] + tiles[0]).reshape(size, 1, -1, 1)
    column = (window[:, None] + tiles[1]).reshape(1, size, 1, -1)
    inside = (0 <= row) & (row < height) & (0 <= column) & (column < width)
    inside = inside.reshape(size**2, 1, -1)
    # Rows of channels are gathered: strided slices of the maps take longer than the convolution.
    # The first is zero, for pixels beyond the edges: padded maps take longer.
    rows = ops.concatenate(
        [ops.zeros((1, channels), maps.dtype), ops.reshape(maps, (-1, channels))]
    )
    place = (1 + row * width + column).astype("int32").reshape(size**2, 1, -1)
    image = ops.arange(ops.shape(maps)[0], dtype="int32") * (height * width)
    places = ops.where(inside, place + ops.reshape(image, (1, -1, 1)), 0)
    return ops.reshape(ops.take(rows, places, axis=0), (size**2, -1, channels))


def _maps(products: Tensor, like: Tensor) -> Tensor:
    """Transform products `(36, tiles, filters)` to maps `(batch, height, width, filters)`.

    Args:
        products: At the points.
        like: Maps of the same size.
    """
    _, height, width, _ = like.shape
    count = ops.shape(like)[0]
    tiles = _combine(_TO_PIXELS, products)
    across = -(-width // _TILE)
    of_image = -(-height // _TILE) * across
    row, column = np.arange(height)[:, None], np.arange(width)
    within = (row % _TILE * _TILE + column % _TILE).astype("int32")
    tile = (row // _TILE * across + column // _TILE).astype("int32")
    image = ops.reshape(ops.arange(count, dtype="int32"), (-1, 1, 1))
    places = within * of_image * count + tile + image * of_image
    return ops.take(ops.reshape(tiles, (-1, tiles.shape[-1])), places, axis=0)
