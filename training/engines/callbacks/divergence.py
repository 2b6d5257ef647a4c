"""Divergence: a loss that is no longer finite, or has exploded."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from training.engines.callbacks.steps import CHECK_EVERY, is_due

# A loss above this multiple of the loss of an untrained net has exploded, which is the logarithm of
# the number of classes.
EXPLODED = 10.0


def exploded_loss(classes: int, class_weights: np.ndarray | None = None) -> float:
    """Return the largest loss that has not exploded.

    Args:
        classes: Number of classes.
        class_weights: Weight of the loss per class; None weighs all alike. A batch may be of the
            class that weighs the most.

    Returns:
        The limit.
    """
    weight = 1.0 if class_weights is None else max(1.0, float(class_weights.max()))
    return EXPLODED * weight * math.log(max(classes, 2))


class Diverged(FloatingPointError):
    """Error of a run whose loss is no longer finite, or far too large.

    Args:
        loss: The mean loss of the steps since the check before.
        epoch: Number of the epoch, from 1.
        step: Number of the step of the run, from 1, at which that was noticed.
        learning_rate: The learning rate of that step.
    """

    def __init__(self, loss: float, epoch: int, step: int, learning_rate: float) -> None:
        super().__init__(
            f"The loss is {loss:.4g} at step {step} (epoch {epoch}), where the learning rate is "
            f"{learning_rate:.4g}: that may be too high, or the warm-up too short."
        )
        self.epoch = epoch
        self.step = step
        self.learning_rate = learning_rate


class DivergenceGuard(keras.callbacks.Callback):
    """Callback that ends a run whose loss explodes, by raising `Diverged`.

    Args:
        limit: The largest loss of a step that has not exploded; see `exploded_loss`.
        every: Steps between two checks.
        agree: Returns whether a value is true in any worker, where several train one net.
    """

    def __init__(
        self,
        limit: float,
        every: int = CHECK_EVERY,
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        super().__init__()
        self._limit = limit
        self._every = every
        self._agree = agree

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget the epoch before."""
        self._epoch, self._checked, self._total = epoch, 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the loss of the last steps."""
        step = batch + 1
        if is_due(step, self._checked, self._every, self.params["steps"]):
            total = (logs or {})["loss"] * step
            # The metric is a mean over the epoch: its growth tells of the last steps.
            self._check((total - self._total) / (step - self._checked), step, self._limit)
            self._checked, self._total = step, total

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the loss of the evaluation, if there was one."""
        # The statistics of a net that learns well may still be far off in an evaluation.
        loss = (logs or {}).get("val_loss", 0.0)
        self._check(loss, self.params["steps"], limit=sys.float_info.max)

    def _check(self, loss: float, step: int, limit: float) -> None:
        if self._agree(not loss <= limit):
            done = self._epoch * self.params["steps"] + step
            raise Diverged(loss, self._epoch + 1, done, float(self.model.optimizer.learning_rate))
