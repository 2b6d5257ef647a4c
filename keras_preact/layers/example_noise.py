"""Random changes of whole examples of a residual branch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


class ExampleNoise(keras.layers.Layer):
    """Base of the layers that change some examples of a residual branch as a whole, in training.

    Args:
        rate: Probability of changing an example's branch, in [0, 1). A call may give another.
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

    def draw(self, inputs: Tensor, *leading: int) -> Tensor:
        """Draw numbers in [0, 1), one or more per example, float32 `(*leading, batch, 1, …)`.

        A layer draws once in a call, since stacked units have one seed per step.
        """
        shape = (*leading, ops.shape(inputs)[0], *(1,) * (len(inputs.shape) - 1))
        return keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
