"""Progress of a run: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Seconds between two looks at the metrics of a bar.
BAR_INTERVAL = 0.25


class PlainLog(keras.callbacks.Callback):
    """Callback that prints progress as plain lines, for logs and pipes.

    Args:
        batch_size: Images of a step.
        log_every: Number of steps between two lines.
    """

    def __init__(self, batch_size: int, log_every: int) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._log_every = log_every
        self._steps_timed = -1

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note which epoch it is."""
        self._epoch = epoch
        self._epoch_started = self._line_started = time.monotonic()
        self._step = self._line_step = -1

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the first step."""
        if self._step < 0:
            self._step = self._line_step = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Print a line every few steps."""
        before, self._step = self._step, batch + 1
        self._count(self._step - before)
        if self._step // self._log_every == before // self._log_every:
            return
        now = time.monotonic()
        steps = self._step - self._line_step
        speed = steps * self._batch_size / (now - self._line_started)
        self._line_started, self._line_step = now, self._step
        self._print(f"step {self._step}/{self.params['steps']}", logs, f"{speed:.0f} images/s")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the results of the epoch."""
        self._step = self.params["steps"]
        self._print("", logs, f"{time.monotonic() - self._epoch_started:.1f} s")

    def _count(self, steps: int) -> None:
        if self._steps_timed < 0:
            # The first step contains the tracing of the graph.
            self._first_step_ended, self._steps_timed = time.monotonic(), 0
        else:
            self._steps_timed += steps

    def _print(self, place: str, logs: Mapping[str, Any] | None, speed: str) -> None:
        epoch = f"epoch {self._epoch + 1}/{self.params['epochs']}"
        parts = [epoch, place, _values(logs), speed, f"ETA {self._eta()}"]
        print("  ".join(filter(None, parts)), flush=True)

    def _eta(self) -> str:
        """Return the time left at the average speed so far, evaluations included, as h:mm:ss."""
        if self._steps_timed < 1:
            return "unknown"
        elapsed = time.monotonic() - self._first_step_ended
        epochs_left = self.params["epochs"] - self._epoch
        steps_left = epochs_left * self.params["steps"] - self._step
        seconds = round(elapsed / self._steps_timed * steps_left)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class ProgressBar(keras.callbacks.Callback):
    """Callback that shows the steps of an epoch as a bar, and leaves a line for each epoch.

    As a context it gives the terminal back, however `fit` ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bars = contextlib.ExitStack()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.close()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a bar."""
        self._started = self._read = time.monotonic()
        self._bar = Progress(
            TextColumn(f"epoch {epoch + 1}/{self.params['epochs']}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            transient=True,
        )
        self._task = self._bar.add_task("", total=self.params["steps"], values="")
        self._bars.enter_context(self._bar)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar on."""
        now = time.monotonic()
        if now - self._read >= BAR_INTERVAL:
            self._read = now
            self._bar.update(self._task, completed=batch + 1, values=_values(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the results of the epoch in place of the bar."""
        seconds = time.monotonic() - self._started
        self._bar.console.print(
            f"epoch {epoch + 1}/{self.params['epochs']}  {_values(logs)}  {seconds:.1f} s",
            highlight=False,
        )
        self._bars.close()


def _values(logs: Mapping[str, Any] | None) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
