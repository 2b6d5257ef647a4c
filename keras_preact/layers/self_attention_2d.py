"""Self-attention between all pixels of a map."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class SelfAttention2D(keras.layers.Layer):
    """Multi-head self-attention with relative positions along height and width (arXiv:2101.11605).

    A pixel's query q meets the key k of every pixel, and two embeddings of the distance to it, in
    rows and in columns: `softmax((q k + q r_height + q r_width) / sqrt(d))` weighs the values. The
    heads share the embeddings, of which there are 2n - 1 for n rows or columns. So the layer takes
    maps of one size only.

    Args:
        filters: Output channels; the heads' queries, keys and values have as many together.
        heads: Number of heads.
        map_size: Height and width of the maps, in pixels; by default those of the first input.
        data_format: `"channels_last"` or `"channels_first"`.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If the heads do not divide the filters, or the size of the maps is not known.
    """

    def __init__(
        self,
        filters: int,
        heads: int = 4,
        map_size: tuple[int, int] | None = None,
        data_format: str = "channels_last",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if filters % heads:
            raise ValueError(f"`heads` must divide the {filters} filters. Received: {heads}")
        self.filters = filters
        self.heads = heads
        self.map_size = None if map_size is None else (map_size[0], map_size[1])
        self.data_format = data_format
        # Keras's names for them, by which stacked units find how their variables start.
        embedding = keras.initializers.RandomNormal(stddev=(filters // heads) ** -0.5)
        self.kernel_initializer = keras.initializers.VarianceScaling(1.0, "fan_in")
        self.height_embedding_initializer = embedding
        self.width_embedding_initializer = embedding.clone()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the projection to queries, keys and values, and the embeddings of distances.

        Args:
            input_shape: `(batch, height, width, channels)`, or with the channels first.
        """
        _, *given, channels = self._channels_last(input_shape)
        height, width = self.map_size or given
        fits = all(each in (None, own) for each, own in zip(given, (height, width), strict=True))
        if height is None or width is None or not fits:
            raise ValueError(
                f"{self.name!r} needs maps of a height and width that are known and stay the same: "
                "its embeddings of positions have one entry per distance. Build the net with a "
                "whole `input_shape`. "
                f"Received: input_shape={input_shape}, map_size={(height, width)}"
            )
        self.map_size = height, width
        depth = self.filters // self.heads
        self.kernel = self.add_weight(
            (channels, 3 * self.filters), self.kernel_initializer, name="kernel"
        )
        self.height_embedding = self.add_weight(
            (2 * height - 1, depth), self.height_embedding_initializer, name="height_embedding"
        )
        self.width_embedding = self.add_weight(
            (2 * width - 1, depth), self.width_embedding_initializer, name="width_embedding"
        )

    def call(self, inputs: Tensor) -> Tensor:
        first = self.data_format == "channels_first"
        x = ops.transpose(inputs, (0, 2, 3, 1)) if first else inputs
        # `build` has set it.
        assert self.map_size is not None
        height, width = self.map_size
        depth = self.filters // self.heads
        shape = (-1, height, width, self.heads, depth)
        q, k, v = (ops.reshape(each, shape) for each in ops.split(x @ self.kernel, 3, axis=-1))
        q = q * depth**-0.5
        rows = ops.einsum("bhwnd,hyd->bnhwy", q, _by_distance(self.height_embedding, height))
        columns = ops.einsum("bhwnd,wxd->bnhwx", q, _by_distance(self.width_embedding, width))
        logits = ops.einsum("bhwnd,byxnd->bnhwyx", q, k)
        logits = logits + ops.expand_dims(rows, -1) + ops.expand_dims(columns, -2)
        pixels = height * width
        logits = ops.reshape(logits, (-1, self.heads, pixels, pixels))
        weights = ops.cast(ops.softmax(ops.cast(logits, "float32"), axis=-1), v.dtype)
        v = ops.reshape(v, (-1, pixels, self.heads, depth))
        x = ops.einsum("bnpq,bqnd->bpnd", weights, v)
        x = ops.reshape(x, (-1, height, width, self.filters))
        return ops.transpose(x, (0, 3, 1, 2)) if first else x

    def _channels_last(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if self.data_format == "channels_last":
            return tuple(shape)
        batch, channels, height, width = shape
        return batch, height, width, channels

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = self._channels_last(input_shape)
        if self.data_format == "channels_last":
            return batch, height, width, self.filters
        return batch, self.filters, height, width

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "heads": self.heads,
            "map_size": self.map_size and list(self.map_size),
            "data_format": self.data_format,
        }


def _by_distance(embedding: Tensor, length: int) -> Tensor:
    """Return the embedding of the way from each place to each, `(length, length, d)`."""
    places = np.arange(length)
    return ops.take(embedding, places[np.newaxis] - places[:, np.newaxis] + length - 1, axis=0)
