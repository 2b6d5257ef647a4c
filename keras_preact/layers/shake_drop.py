"""ShakeDrop: stochastic depth with random factors in place of zero."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_preact")
class ShakeDrop(keras.layers.Layer):
    """Disturbs whole examples of a residual branch in training (arXiv:1802.02375).

    With probability `rate` an example's branch is multiplied by alpha, uniform in [-1, 1], and its
    gradient by beta, uniform in [0, 1] and drawn apart. Otherwise both stay as they are. Inference
    multiplies by the mean of the forward factor, `1 - rate`.

    Args:
        rate: Probability of disturbing an example's branch, in [0, 1): the paper's `1 - p_l`. A
            call may give another.
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
        if not training:
            return inputs * ops.cast(1 - rate, inputs.dtype)
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        stays = self._uniform(shape) >= rate
        forward = self._factor(stays, 2 * self._uniform(shape) - 1, inputs.dtype)
        backward = self._factor(stays, self._uniform(shape), inputs.dtype)
        # Its value has the factor of the forward pass alone, its gradient that of the backward.
        return inputs * backward + ops.stop_gradient(inputs * (forward - backward))

    def _uniform(self, shape: tuple[Any, ...]) -> Any:
        return keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)

    def _factor(self, stays: Any, otherwise: Any, dtype: Any) -> Any:
        return ops.cast(ops.where(stays, 1.0, otherwise), dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments, serialised."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
