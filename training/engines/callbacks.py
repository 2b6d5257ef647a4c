"""Callbacks of a run: averaged weights, records, messages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from training.records.checkpoint import Progress


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Put the moving average of the weights into a model, for as long as the context lasts.

    `keras.callbacks.SwapEMAWeights` exchanges the weights by adding and subtracting them, which
    changes their last bits at every evaluation.

    Args:
        model: A compiled model. Nothing changes if its optimizer keeps no average.
    """
    variables = model.trainable_variables
    weights = [variable.numpy() for variable in variables]
    model.optimizer.finalize_variable_values(variables)
    if keras.backend.backend() == "jax":
        # There they would share the averages' memory, which an evaluation gives up.
        for variable in variables:
            variable.assign(ops.copy(variable))
    try:
        yield
    finally:
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(value)


class Recorder(keras.callbacks.Callback):
    """Callback that adds every epoch to the progress of a run and has it saved.

    Args:
        progress: The history of earlier parts of the run, which is extended.
        schedule: The learning rate of each step.
        save_best: Called first if the epoch is the best so far, with the averaged weights in
            the model, so that a run killed in between finds its best net again.
        save_progress: Called after every `save_every` epochs, and after the last.
        save_every: Epochs between two calls of it.
    """

    def __init__(
        self,
        progress: Progress,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        save_best: Callable[[], None],
        save_progress: Callable[[Progress], None],
        save_every: int = 1,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._schedule = schedule
        self._save_best = save_best
        self._save_progress = save_progress
        self._save_every = save_every

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch."""
        last_step = int(self.model.optimizer.iterations.numpy()) - 1
        record = {
            "epoch": epoch + 1,
            **logs,
            "learning_rate": float(self._schedule(last_step)),
            "seconds": round(time.monotonic() - self._started, 2),
        }
        self._progress.history.append(record)
        if record["val_top1"] > self._progress.best.get("val_top1", -1.0):
            self._progress.best = record
            with averaged_weights(self.model):
                self._save_best()
        if (epoch + 1) % self._save_every == 0 or epoch + 1 == self.params["epochs"]:
            self._save_progress(self._progress)


class PlainLog(keras.callbacks.Callback):
    """Progress as plain lines, for logs and pipes.

    Args:
        batch_size: Images of a step.
        log_every: Number of steps between two lines.
    """

    def __init__(self, batch_size: int, log_every: int) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._log_every = log_every
        self._steps_begun = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note which epoch it is."""
        self._epoch = epoch
        self._epoch_started = self._line_started = time.monotonic()
        self._line_steps = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the step."""
        if self._steps_begun == 1:
            # The first step contains the tracing of the graph.
            self._first_step_ended = time.monotonic()
        self._steps_begun += 1
        self._line_steps += 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Print a line every few steps."""
        step = batch + 1
        if step % self._log_every:
            return
        now = time.monotonic()
        speed = self._line_steps * self._batch_size / (now - self._line_started)
        self._line_started, self._line_steps = now, 0
        print(
            f"{self._epoch_name()}  step {step}/{self.params['steps']}  {_values(logs)}  "
            f"{speed:.0f} images/s  ETA {self._eta(step)}",
            flush=True,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the results of the epoch."""
        seconds = time.monotonic() - self._epoch_started
        steps = self.params["steps"]
        print(
            f"{self._epoch_name()}  {_values(logs)}  {seconds:.1f} s  ETA {self._eta(steps)}",
            flush=True,
        )

    def _epoch_name(self) -> str:
        return f"epoch {self._epoch + 1}/{self.params['epochs']}"

    def _eta(self, step: int) -> str:
        """Time left at the average speed so far, evaluations included, as h:mm:ss."""
        if self._steps_begun < 2:
            return "unknown"
        elapsed = time.monotonic() - self._first_step_ended
        epochs_left = self.params["epochs"] - self._epoch
        steps_left = epochs_left * self.params["steps"] - step
        seconds = round(elapsed / (self._steps_begun - 1) * steps_left)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _values(logs: dict[str, Any]) -> str:
    return "  ".join(f"{name} {float(value):.4f}" for name, value in logs.items())
