"""Nearest-neighbor resizing of a map to the size of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class NearestResize(keras.layers.Layer):
    """Resizing of a map to the height and width of another, by repeating or dropping pixels.

    Pixel i of n takes pixel floor(i * m / n) of m: PyTorch's `"nearest"`. `keras.ops.image.resize`
    rounds from the pixels' centers, which differs where n is no multiple of m.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        self._axes = (2, 3) if self.data_format == "channels_first" else (1, 2)

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Resize the first of two maps to the second's height and width."""
        x, like = inputs
        sizes, targets = ops.shape(x), ops.shape(like)
        for axis in self._axes:
            size, target = sizes[axis], targets[axis]
            x = ops.take(x, ops.arange(target, dtype="int32") * size // target, axis=axis)
        return x

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        shape, like = input_shape
        return tuple(like[axis] if axis in self._axes else size for axis, size in enumerate(shape))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}
