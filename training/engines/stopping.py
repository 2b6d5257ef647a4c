"""How a run ends before its last epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.records.checkpoint import Progress

# The metrics are read, and the loss is checked, every so many steps: reading waits for the step
# to end, and on several workers adds up what each of them counted.
CHECK_EVERY = 10

# A loss has exploded when it is so many times that of a net that knows nothing, the logarithm of
# the number of classes.
EXPLODED = 10.0


class Diverged(FloatingPointError):
    """The loss is no longer finite, or far too large.

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


class Preempted(Exception):
    """The run was asked to stop, and all that it needs to go on is saved.

    Args:
        place: After what it goes on: `"this step"` or `"the last checkpoint"`.
    """

    def __init__(self, place: str) -> None:
        super().__init__(f"Stopped as asked. The same command goes on after {place}.")


def exploded_loss(classes: int) -> float:
    """The largest loss that has not exploded.

    Args:
        classes: Number of classes.

    Returns:
        The limit.
    """
    return EXPLODED * math.log(max(classes, 2))


def with_rollback(
    attempt: Callable[[Progress], None],
    *,
    restore: Callable[[], Progress],
    checkpoint: Path,
    epochs: int,
    rollback: bool,
) -> Progress:
    """Train until the last epoch, or until the loss explodes for good.

    Args:
        attempt: Trains from the state that was restored on, and extends its progress.
        restore: Puts the model into the state of the last checkpoint.
        checkpoint: The file of that state, for messages.
        epochs: Epochs of the recipe, likewise.
        rollback: Whether a run whose loss explodes goes back once to the last checkpoint.

    Returns:
        How far the run has come.

    Raises:
        FloatingPointError: If the loss explodes and the run does not go back, or did before.
    """
    rollbacks: list[dict[str, Any]] = []
    while True:
        progress = restore()
        progress.rollbacks += rollbacks
        try:
            attempt(progress)
            return progress
        except Diverged as error:
            where = f"{error} The last good checkpoint is {checkpoint}, {restore().place(epochs)}."
            if not rollback or progress.rollbacks:
                raise FloatingPointError(where) from error
            rollbacks.append(vars(error))
            print(f"{where} Going back to it once, with half the learning rate.", flush=True)
