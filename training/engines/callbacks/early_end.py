"""Runs that another callback ends within an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


class EndedWithinEpoch(Exception):
    """Training that a callback ended before the last step of an epoch."""


class EarlyEnd(keras.callbacks.Callback):
    """Callback that saves a run which another one ends within an epoch, by `stop_training`.

    `fit` would take the epoch for a whole one. This stands after the other callback, and raises
    `EndedWithinEpoch`.

    Args:
        save: Saves the run, after so many steps of the epoch.
    """

    def __init__(self, save: Callable[[int], None]) -> None:
        super().__init__()
        self._save = save

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save and end the run, if it is to end before the last step."""
        step = batch + 1
        # On JAX, `self.model` would bring its weights up to date after every step.
        if self._model.stop_training and step < self.params["steps"]:
            self._save(step)
            raise EndedWithinEpoch
