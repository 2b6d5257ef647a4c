"""SkipInit: a residual branch that starts at zero."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class SkipInit(keras.layers.Layer):
    """`inputs * gain`, where the gain is one learned number that starts at 0 (arXiv:2002.10444).

    Args:
        gain_initializer: How the gain starts.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, gain_initializer: Any = "zeros", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain_initializer = keras.initializers.get(gain_initializer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the gain."""
        self.gain = self.add_weight((1,), self.gain_initializer, name="gain")

    def call(self, inputs: Tensor) -> Tensor:
        return inputs * self.gain

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        initializer = keras.initializers.serialize(self.gain_initializer)
        return {**super().get_config(), "gain_initializer": initializer}
