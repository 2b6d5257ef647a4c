"""Multiplication by a factor that a call may change."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class Scale(keras.layers.Layer):
    """Multiplication: `inputs * factor`.

    Args:
        factor: Multiplier. A call may give another.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, factor: float = 1.0, **kwargs: Any) -> None:
        # The inputs come in the dtype to compute in; the factor of a call stays float32.
        super().__init__(autocast=False, **kwargs)
        self.factor = factor
        self.built = True

    def call(self, inputs: Tensor, factor: Tensor | None = None) -> Tensor:
        factor = self.factor if factor is None else ops.cast(factor, inputs.dtype)
        return inputs * factor

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "factor": self.factor}
