"""Ends of a run before its last epoch: divergence, preemption."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from training.recipe import Recipe
from training.records.checkpoint import Progress, load_progress, save_net
from training.run import Run

# Steps between two checks of the loss. Reading the metrics waits for the step
# to end, and on several workers adds up what each of them counted.
CHECK_EVERY = 10

# A loss above this multiple of the loss of an untrained net has exploded, which is the logarithm of
# the number of classes.
EXPLODED = 10.0


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


class Preempted(Exception):
    """End of a run that was asked to stop; all that it needs to go on is saved.

    Args:
        place: Point after which it goes on: `"this step"` or `"the last checkpoint"`.
    """

    def __init__(self, place: str) -> None:
        super().__init__(f"Stopped as asked. The same command goes on after {place}.")


def exploded_loss(classes: int) -> float:
    """Return the largest loss that has not exploded.

    Args:
        classes: Number of classes.

    Returns:
        The limit.
    """
    return EXPLODED * math.log(max(classes, 2))


def with_rollback(
    attempt: Callable[[Progress], None],
    net: keras.Model,
    optimizer: keras.Optimizer,
    recipe: Recipe,
    run: Run,
    rollback: bool,
) -> Progress:
    """Train until the last epoch, or until the loss explodes for good.

    Args:
        attempt: Trains from the restored state on, and extends its progress.
        net: The net, which is put into the state of the last checkpoint before each attempt.
        optimizer: Its optimizer, which is restored with it.
        recipe: The values of the run.
        run: The folder with the checkpoint.
        rollback: Whether a run whose loss explodes goes back once to the last checkpoint.

    Returns:
        How far the run has come.

    Raises:
        FloatingPointError: If the loss explodes and the run does not go back, or did before.
    """

    def restore() -> Progress:
        return load_progress(run.checkpoint, net, optimizer)

    rollbacks: list[dict[str, Any]] = []
    while True:
        progress = restore()
        progress.rollbacks += rollbacks
        try:
            attempt(progress)
            return progress
        except Diverged as error:
            place = restore().place(recipe.epochs)
            where = f"{error} The last good checkpoint is {run.checkpoint}, {place}."
            if not rollback or progress.rollbacks:
                raise FloatingPointError(where) from error
            rollbacks.append(vars(error))
            print(f"{where} Going back to it once, with half the learning rate.", flush=True)


def finish(net: keras.Model, run: Run, progress: Progress, recipe: Recipe) -> None:
    """Write the trained net and the record of a run that has come to its end, or was to stop."""
    save_net(net, run.model)
    run.write(progress, "finished" if progress.epochs == recipe.epochs else "running")
