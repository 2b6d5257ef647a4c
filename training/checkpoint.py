"""The state of a run, after or within an epoch, in one file."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from training.files import replacing


@dataclass
class Progress:
    """How far a run has come.

    Args:
        history: One record for each completed epoch.
        best: The record of the epoch with the best validation top-1; empty before the first.
        step: Completed steps of the epoch after those; 0 between epochs.
        metrics: State of the metrics after these steps.
        rollbacks: Where the run diverged and went back to an earlier state: `epoch`, `step` and
            `learning_rate`.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    metrics: list[float] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Number of completed epochs."""
        return len(self.history)

    def place(self, epochs: int) -> str:
        """Where a run of so many epochs is, in words."""
        within = f" and {self.step} steps of the next" if self.step else ""
        return f"after epoch {self.epochs} of {epochs}{within}"


def save_checkpoint(path: str | os.PathLike, model: keras.Model, progress: Progress) -> None:
    """Write everything a run needs to go on.

    Args:
        path: The file, an `.npz` archive. It is replaced at once when the new one is complete.
        model: The compiled model. Its weights, the states of its random generators and the
            variables of its optimiser (velocities, moving averages, step, loss scale) are kept.
        progress: What the run has achieved.
    """
    arrays = {name: variable.numpy() for name, variable in _named_variables(model).items()}
    progress_json = json.dumps(dataclasses.asdict(progress))
    with replacing(path) as partial:
        np.savez(partial, progress=progress_json, **arrays)


def load_checkpoint(path: str | os.PathLike, model: keras.Model) -> Progress:
    """Restore a run.

    Args:
        path: A file that `save_checkpoint` wrote.
        model: A compiled model of the same architecture, whose optimiser is built.

    Returns:
        How far the run had come.

    Raises:
        ValueError: If the variables are not those of the model.
    """
    variables = _named_variables(model)
    with np.load(path, allow_pickle=False) as arrays:
        unknown = variables.keys() ^ (set(arrays.files) - {"progress"})
        if unknown:
            raise ValueError(
                f"{path} is of another net or optimiser: {len(unknown)} variables are in only one "
                f"of the two, among them {min(unknown)!r}."
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        return Progress(**json.loads(str(arrays["progress"])))


def _named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    owners = {"model": model, "optimizer": model.optimizer}
    return {
        # Paths alone need not be unique.
        f"{owner}/{index:05d}/{variable.path}": variable
        for owner, variables in owners.items()
        for index, variable in enumerate(variables.variables)
    }
