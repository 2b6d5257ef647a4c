"""Mean and maximum over the channels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class ChannelPooling(keras.layers.Layer):
    """Mean and maximum over the channels, as two channels (CBAM, arXiv:1807.06521).

    Args:
        axis: Axis of the channels.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        mean = ops.mean(inputs, self.axis, keepdims=True)
        maximum = ops.max(inputs, self.axis, keepdims=True)
        return ops.concatenate([mean, maximum], self.axis)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input, with two channels."""
        shape = list(input_shape)
        shape[self.axis] = 2
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {**super().get_config(), "axis": self.axis}
