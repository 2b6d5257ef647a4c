"""Moving averages of the weights, in evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from training.optimizer import averaged_statistics, unscaled


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Put the moving averages of the weights into a model, for as long as the context lasts.

    `keras.callbacks.SwapEMAWeights` exchanges the weights by adding and subtracting them, which
    changes their last bits at every evaluation.

    The moving statistics of norms become averages, too, if the model is of `compile_for_training`.
    An optimizer of Keras averages the trained weights only.

    Args:
        model: A compiled model. Nothing changes if its optimizer keeps no average.
    """
    if not unscaled(model.optimizer).use_ema:
        yield
        return
    statistics = [statistic for statistic, _ in averaged_statistics(model.optimizer)]
    variables = [*model.trainable_variables, *statistics]
    weights = [variable.numpy() for variable in variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    if keras.backend.backend() == "jax":
        # There they would share the averages' memory, which an evaluation gives up.
        for variable in variables:
            variable.assign(ops.copy(variable))
    try:
        yield
    finally:
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(value)


class AveragedWeights(keras.callbacks.Callback):
    """Callback that has the moving average of the weights evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self._average = contextlib.ExitStack()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the average into the model."""
        self._average.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the weights back."""
        self._average.close()


class AveragedStatistics(keras.callbacks.Callback):
    """Callback that has one set of moving statistics evaluated and saved, where replicas differ.

    Args:
        average: Gives every replica of a model the mean of all replicas' moving statistics.
    """

    def __init__(self, average: Callable[[keras.Model], None]) -> None:
        super().__init__()
        self._average = average

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Average the statistics."""
        self._average(self.model)
