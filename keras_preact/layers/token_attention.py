"""Attention between tokens, without weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class TokenAttention(keras.layers.Layer):
    """Scaled dot-product attention of several heads (arXiv:1706.03762) on queries, keys and values.

    The softmax is computed in float32.

    Args:
        heads: Number of heads.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Attend.

        Args:
            inputs: `(batch, tokens, 3 * width)`: queries, keys and values, each with its heads one
                after the other.

        Returns:
            A tensor `(batch, tokens, width)`.
        """
        tokens, width = inputs.shape[1], inputs.shape[2] // 3
        shape = (-1, tokens, self.heads, width // self.heads)
        q, k, v = (ops.reshape(each, shape) for each in ops.split(inputs, 3, axis=-1))
        return ops.reshape(ops.dot_product_attention(q, k, v), (-1, tokens, width))

    def compute_output_shape(
        self, input_shape: tuple[int | None, int | None, int]
    ) -> tuple[int | None, int | None, int]:
        batch, tokens, width = input_shape
        return batch, tokens, width // 3

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads}
