"""Records of epochs, and checkpoints after them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from training.engines.callbacks.averaging import averaged_weights
from training.records.checkpoint import Progress
from training.task import ONE_CLASS


class Record(keras.callbacks.Callback):
    """Callback that adds every epoch to the progress of a run.

    Args:
        progress: The history of earlier parts of the run, which is extended.
        schedule: The learning rate of each step.
        save_best: Called if the epoch is the best so far, with the averaged weights in the model.
        metric: What the best epoch has the most of.
    """

    def __init__(
        self,
        progress: Progress,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        save_best: Callable[[], None],
        metric: str = ONE_CLASS.best_by,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._schedule = schedule
        self._save_best = save_best
        self._metric = metric

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch."""
        last_step = int(self.model.optimizer.iterations.numpy()) - 1
        record = {
            "epoch": epoch + 1,
            **{name: _plain(value) for name, value in (logs or {}).items()},
            "learning_rate": float(self._schedule(last_step)),
            "seconds": round(time.monotonic() - self._started, 2),
        }
        self._progress.history.append(record)
        if record[self._metric] > self._progress.best.get(self._metric, -1.0):
            self._progress.best = record
            with averaged_weights(self.model):
                self._save_best()


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers of Python, and None for one that is not finite."""
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    plain = np.asarray(value).tolist()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


class Checkpoint(keras.callbacks.Callback):
    """Callback that has a run saved after epochs, and on demand within one.

    It stands after `Record`, which saves the best net first: with the checkpoint that net becomes
    the one that the run knows.

    Args:
        progress: How far the run has come.
        save: Saves a run that has come so far, with the weights and the optimizer's variables.
        every: Epochs between two times. The last epoch is always saved, also where a callback sets
            `stop_training`.
    """

    def __init__(
        self, progress: Progress, save: Callable[[Progress], None], every: int = 1
    ) -> None:
        super().__init__()
        self._progress = progress
        self._save = save
        self._every = every

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget where within an epoch the run was taken up."""
        self._progress.step, self._progress.metrics = 0, []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the run, if it is time."""
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if last or (epoch + 1) % self._every == 0:
            self._save(self._progress)

    def save_within_epoch(self, step: int) -> None:
        """Save the run after so many steps of an epoch, with the state of its metrics."""
        states = self.model.metrics_variables
        self._progress.step = step
        self._progress.metrics = [float(state.numpy()) for state in states]
        self._save(self._progress)
