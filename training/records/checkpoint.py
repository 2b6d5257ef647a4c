"""Checkpoints: the state of a run, after or within an epoch, in one file."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_preact.files import replacing
from training.optimizer import averaged_statistics


@dataclass
class Progress:
    """Progress of a run.

    Args:
        history: One record for each completed epoch.
        best: The record of the epoch with the best validation top-1, or mean average precision;
            empty before the first.
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
        """Describe how far a run of so many epochs has come."""
        within = f" and {self.step} steps of the next" if self.step else ""
        return f"after epoch {self.epochs} of {epochs}{within}"


class CheckpointError(ValueError):
    """Error of a checkpoint that a run cannot go on from."""


class DamagedCheckpoint(CheckpointError):
    """Error of a file that is no checkpoint, or was cut short or changed."""


def save_checkpoint(
    path: str | os.PathLike, net: keras.Model, optimizer: keras.Optimizer, progress: Progress
) -> None:
    """Write everything a run needs to go on.

    Args:
        path: The file, an `.npz` archive. It is replaced at once when the new one is complete, and
            the old one kept as `previous` names it.
        net: The net; its weights and the states of its random generators are kept.
        optimizer: The optimizer, whose velocities, moving averages, step and loss scale are kept.
        progress: How far the run has come.
    """
    variables = _named_variables(net, optimizer)
    arrays = {name: variable.numpy() for name, variable in variables.items()}
    progress_json = json.dumps(dataclasses.asdict(progress))
    with replacing(path) as partial:
        np.savez(partial, progress=progress_json, **arrays)
        if os.path.exists(path):
            os.replace(path, previous(path))


def previous(path: str | os.PathLike) -> Path:
    """Return the path of the checkpoint before the last."""
    return Path(path).with_name("previous" + Path(path).suffix)


def load_checkpoint(
    path: str | os.PathLike, net: keras.Model, optimizer: keras.Optimizer
) -> Progress:
    """Restore a run.

    Args:
        path: A file that `save_checkpoint` wrote.
        net: A net of the same architecture.
        optimizer: An optimizer of the same kind, built for it.

    Returns:
        How far the run had come.

    Raises:
        DamagedCheckpoint: If the file is damaged; net and optimizer are then as before.
        CheckpointError: If the variables are not those of the net and the optimizer.
    """
    variables = _named_variables(net, optimizer)
    arrays, progress = _read(path)
    _begin_averages(arrays, variables, optimizer)
    unknown = variables.keys() ^ arrays.keys()
    if unknown:
        raise CheckpointError(
            f"{path} is of another net or optimizer: {len(unknown)} variables are in only one "
            f"of the two, among them {min(unknown)!r}."
        )
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise CheckpointError(
                f"{path} is of another net: {name!r} has the shape {arrays[name].shape} there, "
                f"{tuple(variable.shape)} here."
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return progress


def _begin_averages(
    arrays: dict[str, np.ndarray], variables: dict[str, keras.Variable], optimizer: keras.Optimizer
) -> None:
    """Begin averages of moving statistics with these, for a checkpoint from before they were."""
    names = {id(variable): name for name, variable in variables.items()}
    for statistic, average in averaged_statistics(optimizer):
        if (name := names[id(statistic)]) in arrays:
            arrays.setdefault(names[id(average)], arrays[name])


def _read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], Progress]:
    """Read a checkpoint as a whole, with the checksums of all that is in it."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        return arrays, Progress(**json.loads(str(arrays.pop("progress"))))
    except FileNotFoundError:
        raise
    # Readers of damaged archives raise whatever they meet.
    except Exception as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error}).") from error


def load_progress(path: Path, net: keras.Model, optimizer: keras.Optimizer) -> Progress:
    """Restore a run from its checkpoint, or begin it where there is none.

    Args:
        path: A file that `save_checkpoint` wrote, or will write.
        net: See `load_checkpoint`.
        optimizer: See `load_checkpoint`.

    Returns:
        How far the run has come. Where the last checkpoint is damaged, the one before it counts.
        Its names may be what is damaged, so that it seems to be of another net.

    Raises:
        CheckpointError: If the variables are not those of the net and the optimizer, or both
            checkpoints are damaged.
    """
    errors: list[CheckpointError] = []
    for each in (path, previous(path)):
        if not each.exists():
            continue
        try:
            progress = load_checkpoint(each, net, optimizer)
        except CheckpointError as error:
            errors.append(error)
            continue
        if errors:
            print(f"{errors[0]} The one before it counts: {each}", file=sys.stderr)
        return progress
    if not errors:
        return Progress()
    if isinstance(errors[0], DamagedCheckpoint):
        raise DamagedCheckpoint(
            f"{errors[0]} No other checkpoint can be read: remove {path.parent} to begin anew."
        )
    raise errors[0]


def save_net(net: keras.Model, path: Path) -> None:
    """Save a net as a `.keras` file, whole or not at all."""
    with replacing(path) as partial:
        net.save(partial)


def _named_variables(net: keras.Model, optimizer: keras.Optimizer) -> dict[str, keras.Variable]:
    owners = {"model": net, "optimizer": optimizer}
    return {
        # Paths need not be unique.
        f"{owner}/{index:05d}/{variable.path}": variable
        for owner, variables in owners.items()
        for index, variable in enumerate(variables.variables)
    }
