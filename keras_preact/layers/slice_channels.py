"""Some of the channels of a map."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class SliceChannels(keras.layers.Layer):
    """Slice of the channels, from `start` to before `stop`.

    Args:
        start: The first channel that is kept.
        stop: The first channel after those that are kept.
        axis: Axis of the channels: 1 or 3.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, start: int, stop: int, axis: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start, self.stop, self.axis = start, stop, axis

    def call(self, inputs: Tensor) -> Tensor:
        kept = slice(self.start, self.stop)
        return inputs[:, kept] if self.axis == 1 else inputs[..., kept]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        shape = list(input_shape)
        shape[self.axis] = self.stop - self.start
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        return {
            **super().get_config(),
            "start": self.start,
            "stop": self.stop,
            "axis": self.axis,
        }
