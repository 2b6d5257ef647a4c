"""Steps as callbacks hear of them: counted over a whole epoch, read only if a callback looks."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from training.records.checkpoint import Progress

# Steps between two checks of a run. A check reads the metrics, which waits for the step to end, and
# workers ask one another.
CHECK_EVERY = 10


def is_due(step: int, before: int, every: int, steps: int) -> bool:
    """Return whether a check is due after a step: once in `every` steps, and at the last.

    Args:
        step: Completed steps of the epoch.
        before: Completed steps when callbacks were called the time before.
        every: Steps between two checks.
        steps: Steps of the epoch.
    """
    return step // every > before // every or step == steps


class StepLogs(UserDict):
    """Metrics after a step, which become numbers when they are read.

    Reading one waits for the step to end; Keras's own list of callbacks reads all of them after
    every step, in which time the device has nothing to do.
    """

    def __getitem__(self, name: str) -> Any:
        value = self.data[name]
        try:
            return float(value)
        except (TypeError, ValueError):
            return value


class StepCallbacks(keras.callbacks.CallbackList):
    """List of callbacks for `fit`, which may begin within an epoch.

    The callbacks count the steps of the whole epoch, whose metrics include the steps before. Where
    several steps are one execution, they are called after the last of them.

    Args:
        callbacks: The callbacks.
        model: The model that is trained. Its metrics are built.
        steps: Steps of an epoch, the `steps_per_epoch` of `fit`.
        epochs: Completed epochs to end with.
        progress: How far the run has come. The batches begin after its last step.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        *,
        steps: int,
        epochs: int,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(list(callbacks), add_history=True, model=model, steps=steps, epochs=epochs)
        self._fitted = model
        self._steps = steps
        self._done, self._metrics = (progress.step, progress.metrics) if progress else (0, [])
        self._begun = False
        # Whether the begun epoch ends for the next to follow, not because a callback ends the run.
        self._goes_on = True

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin training, once: `fit` follows `complete_epoch`."""
        if not self._begun:
            self._begun = True
            super().on_train_begin(logs)

    def complete_epoch(self, epoch: int, evaluate: Callable[[], Mapping[str, Any]]) -> None:
        """Evaluate and end an epoch that was begun, and of which no step is left.

        `fit` cannot, which trains on a batch before it asks whether to stop.

        Args:
            epoch: Number of the epoch, from 0.
            evaluate: Returns the metrics of the evaluation that belongs to the epoch.
        """
        self.on_train_begin()
        self._fitted.stop_training = False
        self.on_epoch_begin(epoch)
        results = self._fitted.get_metrics_result()
        # Numbers, before the evaluation resets the metrics.
        logs = {name: float(value) for name, value in results.items()}
        logs |= {f"val_{name}": value for name, value in evaluate().items()}
        self.on_epoch_end(epoch, logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin an epoch, or take it up again."""
        if self._done:
            for variable, value in zip(self._fitted.metrics_variables, self._metrics, strict=True):
                variable.assign(value)
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin an execution of one or more steps."""
        first = self._done + batch
        if self._fitted.steps_per_execution > 1:
            # The last execution of an epoch may have fewer steps; see `ReplicatedModel`.
            left = self._steps - first
            self._fitted.steps_of_execution = min(self._fitted.steps_per_execution, left)
        for callback in self.callbacks:
            callback.on_train_batch_begin(first, {})

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End an execution, and with its last step a begun epoch."""
        last = min(self._done + batch, self._steps - 1)
        step_logs = StepLogs(logs or {})
        for callback in self.callbacks:
            callback.on_train_batch_end(last, step_logs)
        if self._done and last + 1 == self._steps:
            self._goes_on = not self._fitted.stop_training
            self._fitted.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End an epoch; after a begun one the next follows."""
        if self._done:
            self._fitted.stop_training = not self._goes_on
            self._done = 0
        super().on_epoch_end(epoch, logs)
