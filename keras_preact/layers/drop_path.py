"""Stochastic depth."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_preact")
class DropPath(keras.layers.Layer):
    """Sets whole examples of a residual branch to zero in training (arXiv:1603.09382).

    What is kept is divided by the probability of keeping it, so that inference needs no scaling.

    Args:
        rate: Probability of dropping an example's branch, in [0, 1). A call may give another.
        seed: Integer seed of the draws; by default drawn from Keras's global seed.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If `rate` is out of its range.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        # The branch comes in the dtype to compute in; the rate of a call stays float32.
        super().__init__(autocast=False, **kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: {rate}")
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs: Any, rate: Any = None, training: bool = False) -> Any:
        rate = self.rate if rate is None else rate
        if not training or (isinstance(rate, int | float) and rate == 0):
            return inputs
        keep = 1 - rate
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        draws = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        mask = ops.cast(draws < keep, inputs.dtype)
        return inputs * mask / ops.cast(keep, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
