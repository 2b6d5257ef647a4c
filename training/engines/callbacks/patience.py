"""Early stopping: a run ends once no epoch has been better for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from training.records.checkpoint import Progress


class Patience(keras.callbacks.Callback):
    """Callback that ends training once no epoch has been the best for a number of epochs.

    Unlike `keras.callbacks.EarlyStopping`, it counts in the history of a run, which checkpoints
    hold: a run that was stopped and goes on ends after the same epoch. It stands after `Record`,
    which extends the history, and before `Checkpoint`, which saves the last epoch.

    Args:
        progress: How far the run has come, with its best epoch.
        epochs: Epochs without a better one after which training ends; 0 for never.
        agree: Returns whether a value is true in any worker, where several train one net.
    """

    def __init__(
        self, progress: Progress, epochs: int, agree: Callable[[bool], bool] = bool
    ) -> None:
        super().__init__()
        self._progress = progress
        self._epochs = epochs
        self._agree = agree

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End training, if this is the last epoch of the patience."""
        if self._epochs and self._agree(is_exhausted(self._progress, self._epochs)):
            self.model.stop_training = True


def is_exhausted(progress: Progress, epochs: int) -> bool:
    """Return whether no epoch has been better than the best for so many epochs; 0 for never."""
    return bool(epochs and progress.best) and progress.epochs - progress.best["epoch"] >= epochs
