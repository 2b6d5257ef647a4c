"""Pace of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from training.recipe import Recipe


@dataclass(frozen=True)
class Pace:
    """Times at which a run logs, saves and stops. None of them changes its outcome.

    Attributes:
        log_every: Steps between two lines of the log, where standard output is no terminal.
        save_every: Epochs between two checkpoints.
        stop_after: Completed epochs after which to stop; None for all epochs of the recipe.
        rollback: Whether a run whose loss explodes goes back once to its last checkpoint, and on
            from there with half the learning rate.
        stop_requested: Returns whether the run should stop as soon as possible, to be continued
            later.
    """

    log_every: int = 50
    save_every: int = 1
    stop_after: int | None = None
    rollback: bool = False
    stop_requested: Callable[[], bool] = lambda: False

    @classmethod
    def of(cls, options: argparse.Namespace, stop_requested: Callable[[], bool]) -> Pace:
        """Read the pace from the options of `training.train`."""
        return cls(
            options.log_every,
            options.save_every,
            options.stop_after,
            options.rollback,
            stop_requested,
        )

    def epochs(self, recipe: Recipe) -> int:
        """Return the number of completed epochs after which a run of this recipe stops."""
        return min(self.stop_after or recipe.epochs, recipe.epochs)
