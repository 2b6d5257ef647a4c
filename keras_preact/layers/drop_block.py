"""DropBlock: dropout of squares of pixels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class DropBlock(keras.layers.Layer):
    """Dropout of squares of each map, in training (arXiv:1810.12890, algorithm 1).

    Every channel of every example has squares of its own, each wholly inside the map. On a map
    smaller than a square a whole side drops. The pixels that stay are multiplied by the number of
    all pixels over theirs, so that inference needs no scaling. Squares overlap, so that the share
    that drops is a little below `rate`.

    Args:
        rate: Share of the pixels to drop, in [0, 1).
        size: Height and width of a square, in pixels.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        seed: Integer seed of the draws; by default drawn from Keras's global seed.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If `rate` or `size` is out of its range.
    """

    def __init__(
        self,
        rate: float,
        size: int = 7,
        data_format: str | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: {rate}")
        if size < 1:
            raise ValueError(f"`size` must be a positive integer. Received: {size}")
        self.rate = rate
        self.size = size
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or self.rate == 0:
            return inputs
        kept = self._kept(ops.shape(inputs))
        # Where every pixel has dropped, any divisor but zero will do.
        factor = kept / ops.maximum(ops.mean(kept), keras.config.epsilon())
        return inputs * ops.cast(factor, inputs.dtype)

    def _kept(self, shape: tuple[Any, ...]) -> Tensor:
        """Draw 1.0 where a pixel stays and 0.0 where it drops."""
        first = 2 if self.data_format == "channels_first" else 1
        centers, probability = 1.0, self.rate
        for axis in (first, first + 1):
            length = ops.cast(shape[axis], "float32")
            side = ops.minimum(length, float(self.size))
            # So many squares fit, and each drops so much of the axis (equation 1).
            probability = probability * length / (side * (length - side + 1))
            index = ops.cast(ops.arange(shape[axis]), "float32")
            inside = (index >= side // 2) & (index < length - (side - 1) // 2)
            broadcast = [1, 1, 1, 1]
            broadcast[axis] = -1
            centers = centers * ops.reshape(ops.cast(inside, "float32"), broadcast)
        draws = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        chosen = ops.cast(draws < probability * centers, "float32")
        dropped = ops.max_pool(
            chosen, self.size, strides=1, padding="same", data_format=self.data_format
        )
        return ops.stop_gradient(1.0 - dropped)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "rate": self.rate,
            "size": self.size,
            "data_format": self.data_format,
            "seed": self.seed,
        }
