"""Tokens of a transformer, made of maps."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class TokenEmbedding(keras.layers.Layer):
    """Sequence of a class token and the pixels of a map, each with its position added.

    As in ViT (arXiv:2010.11929), class token and positions are learned, one vector each, so that
    the layer takes maps of one size. `keras_preact.transforms.resize_input` makes the same net for
    another.

    Args:
        data_format: `"channels_last"` or `"channels_first"`, of the maps.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If the size of the maps is not known.
    """

    def __init__(self, data_format: str = "channels_last", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format = data_format

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the class token and the positions, the class token's first, then row by row.

        Args:
            input_shape: `(batch, height, width, channels)`, or with the channels first.
        """
        _, tokens, channels = self.compute_output_shape(input_shape)
        if tokens is None:
            raise ValueError(
                f"{self.name!r} needs maps of a known height and width: it has an embedding for "
                "each pixel. Build the net with a whole `input_shape`. "
                f"Received: input_shape={input_shape}"
            )
        self.class_token = self.add_weight((1, 1, channels), "zeros", name="class_token")
        self.positions = self.add_weight(
            (1, tokens, channels), keras.initializers.RandomNormal(stddev=0.02), name="positions"
        )

    def call(self, inputs: Tensor) -> Tensor:
        if self.data_format == "channels_first":
            inputs = ops.transpose(inputs, (0, 2, 3, 1))
        _, tokens, channels = self.positions.shape
        pixels = ops.reshape(inputs, (-1, tokens - 1, channels))
        class_token = ops.broadcast_to(self.class_token, (ops.shape(pixels)[0], 1, channels))
        return ops.concatenate([class_token, pixels], axis=1) + self.positions

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if self.data_format == "channels_first":
            batch, channels, height, width = input_shape
        else:
            batch, height, width, channels = input_shape
        tokens = None if height is None or width is None else height * width + 1
        return batch, tokens, channels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}
