"""3x3 convolutions in a quarter of the multiplications (Lavin and Gray, arXiv:1509.09308).

F(4x4, 3x3): the output in tiles of 4x4 pixels, each a function of the 6x6 pixels that it sees. What
is seen and the kernel are transformed to 36 points, at which the convolution is a matrix product
over the channels; a last transform gives the pixels. In float32 the result differs from the
convolution's by about 1e-4 of its magnitude.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

# Side of a tile, and of what it sees, in pixels.
_TILE, _SEEN = 4, 6
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
    """A kernel at the 36 points.

    Args:
        kernel: `(3, 3, channels, filters)`.

    Returns:
        float32 `(36, channels, filters)`.
    """
    points = np.einsum("ai,bj,ijcf->abcf", _FROM_KERNEL, _FROM_KERNEL, kernel, optimize=True)
    return points.reshape(_SEEN**2, *kernel.shape[2:]).astype("float32")


def winograd(inputs: Any, kernel: Any) -> Any:
    """The 3x3 convolution of stride 1, padded by a pixel of zeros on every side.

    Args:
        inputs: float32 `(batch, height, width, channels)`; all but the batch known.
        kernel: What `transformed_kernel` gives.

    Returns:
        float32 `(batch, height, width, filters)`.
    """
    _, height, width, channels = inputs.shape
    filters = kernel.shape[-1]
    count = ops.shape(inputs)[0]
    batch = ops.arange(count, dtype="int32")
    down, across = -(-height // _TILE), -(-width // _TILE)
    seen = (_TILE * down + 2, _TILE * across + 2)
    padded = ops.pad(inputs, [[0, 0], [1, seen[0] - height - 1], [1, seen[1] - width - 1], [0, 0]])
    # Rows of channels are gathered: strided slices of the maps take longer than the convolution.
    places = _places_seen(down, across, seen[1])
    places = places + ops.reshape(batch, (1, -1, 1)) * (seen[0] * seen[1])
    pixels = ops.take(ops.reshape(padded, (-1, channels)), places, axis=0)
    points = _combine(_FROM_PIXELS, ops.reshape(pixels, (_SEEN**2, -1)))
    products = ops.matmul(ops.reshape(points, (_SEEN**2, -1, channels)), kernel)
    tiles = _combine(_TO_PIXELS, ops.reshape(products, (_SEEN**2, -1)))
    within, tile = _places_in_tiles(height, width, across)
    places = within * (down * across) * count + tile
    places = places + ops.reshape(batch, (-1, 1, 1)) * (down * across)
    return ops.take(ops.reshape(tiles, (-1, filters)), places, axis=0)


def _combine(transform: np.ndarray, values: Any) -> Any:
    """A transform of both axes, of values whose first axis is that of the pixels or points."""
    both = np.kron(transform, transform).astype("float32")
    return ops.matmul(ops.convert_to_tensor(both), values)


def _places_seen(down: int, across: int, row: int) -> np.ndarray:
    """Of each pixel seen `(36, 1, tiles)`, the place in a padded map of this length of a row."""
    within = np.arange(_SEEN)[:, None] * row + np.arange(_SEEN)
    tile = _TILE * (np.arange(down)[:, None] * row + np.arange(across))
    return (within.reshape(-1, 1, 1) + tile.reshape(1, 1, -1)).astype("int32")


def _places_in_tiles(height: int, width: int, across: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of a map `(height, width)`, its place within its tile, and the tile."""
    row, column = np.arange(height)[:, None], np.arange(width)
    within = row % _TILE * _TILE + column % _TILE
    return within.astype("int32"), (row // _TILE * across + column // _TILE).astype("int32")


@keras.saving.register_keras_serializable(package="keras_preact")
class WinogradConv2D(keras.layers.Layer):
    """A 3x3 convolution of stride 1 and channels last, with its kernel at Winograd's points.

    `keras_preact.transforms.winograd` puts it in the place of a convolution.

    Args:
        filters: Output channels.
        use_bias: Whether a bias is added.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, filters: int, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.use_bias = use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create `kernel` `(36, channels, filters)` and `bias`.

        Raises:
            ValueError: If height, width or channels of the inputs are unknown.
        """
        if None in input_shape[1:]:
            raise ValueError(
                "Winograd's convolution needs maps of a known size. "
                f"Received: inputs of shape {tuple(input_shape)}"
            )
        self.kernel = self.add_weight(
            shape=(_SEEN**2, input_shape[-1], self.filters), initializer="zeros", name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        outputs = winograd(inputs, self.kernel)
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialised."""
        own = {"filters": self.filters, "use_bias": self.use_bias}
        return {**super().get_config(), **own}
