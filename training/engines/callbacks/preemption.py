"""Preemption: a run that is asked to stop saves itself within the epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from training.engines.callbacks.steps import CHECK_EVERY, is_due
from training.processes import Preempted


class Preemption(keras.callbacks.Callback):
    """Callback that saves and ends a run which is asked to stop, by raising `Preempted`.

    Args:
        requested: Returns whether the run should stop, such as `is_set` of `termination`.
        save: Saves the run, after so many steps of the epoch.
        agree: Returns whether a value is true in any worker. Where several train one net, they
            stop after the same step, and ask one another every `CHECK_EVERY` steps. A single
            process, which has none, stops at once.
    """

    def __init__(
        self,
        requested: Callable[[], bool],
        save: Callable[[int], None],
        agree: Callable[[bool], bool] | None = None,
    ) -> None:
        super().__init__()
        self._requested = requested
        self._save = save
        self._agree = agree

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps anew."""
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop after this step, if that was asked for."""
        before, self._step = self._step, batch + 1
        stop = self._requested()
        if self._agree:
            due = is_due(self._step, before, CHECK_EVERY, self.params["steps"])
            stop = due and self._agree(stop)
        if stop:
            self._save(self._step)
            raise Preempted("Stopped as asked. The same command goes on after this step.")
