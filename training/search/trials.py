"""The folder of a search: `search.json`, and for each trial a folder `trials/ID`.

A trial's folder holds its recipe, the log of its training and its record; that of the training
run, `run`, is in the folder of the trial that began it, where another continues that trial.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import tomli_w

from keras_preact.files import read_json, replacing, write_json
from training.recipe import Recipe, decisive, load_recipe
from training.records.checkpoint import previous
from training.run import LAST_CHECKPOINT, read_history, read_run

# Files of a training run that hold weights.
_WEIGHTS = ("model.keras", "best.keras", "checkpoint")
# Entries of `search.json` that a report needs, and their types.
_REPORTED = {"oracle": str, "objective": str, "source": str, "recipe": dict}
# Entry of `search.json` once the oracle has nothing left to propose.
_ENDED = "ended"
_STATUSES = ("running", "finished", "failed")


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of a trial.

    Attributes:
        trial: Its number, as text.
        values: Its hyperparameters.
        run: The folder of its training run, relative to that of the search.
        epochs: Completed epochs at its end, those of a trial that it continues included; fewer
            than planned once the recipe's patience has ended it.
        flops: Multiply-adds of its net for one image.
        parameters: Parameters of its net.
        status: `"running"` (or interrupted), `"finished"` or `"failed"`.
        attempts: Each process that worked at it: the name of its `worker`, and how many epochs
            were completed before, `after_epoch`.
        seconds: Time that these took.
        results: Record of its last epoch, once it is finished.
        message: Why it was interrupted or failed, with the end of its log.
        signal: Number of the signal that ended its last training; 0 if none did.
    """

    trial: str
    values: dict[str, Any]
    run: str
    epochs: int
    flops: int
    parameters: int
    status: str = "running"
    attempts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    results: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    signal: int = 0

    def replace(self, **changes: Any) -> Record:
        """Return the record with some values changed."""
        return dataclasses.replace(self, **changes)


# JSON has one kind of number.
_TYPES = {
    name: int | float if kind is float else get_origin(kind) or kind
    for name, kind in get_type_hints(Record).items()
}


class SearchFolder:
    """Paths of the files of a search.

    Args:
        output: The folder.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.description = output / "search.json"

    def trial(self, trial: str) -> Path:
        """Return the folder of a trial."""
        return self.output / "trials" / trial

    def recipe(self, trial: str) -> Path:
        """Return the path of a trial's recipe."""
        return self.trial(trial) / "recipe.toml"

    def read_recipe(self, trial: str) -> Recipe:
        """Read a trial's recipe.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged.
        """
        path = self.recipe(trial)
        if not path.is_file():
            raise FileNotFoundError(f"{self.output} is damaged: it has no {path}.")
        try:
            return load_recipe(path)
        except (TypeError, ValueError) as error:
            raise ValueError(f"The recipe of trial {trial} is damaged. {error}") from error

    def log(self, trial: str) -> Path:
        """Return the path of the log of a trial's training."""
        return self.trial(trial) / "log.txt"

    def record(self, trial: str) -> Path:
        """Return the path of a trial's record."""
        return self.trial(trial) / "trial.json"

    def history(self, record: Record) -> list[dict[str, Any]]:
        """Return the records of the completed epochs of a trial's run."""
        return _history(self.output / record.run)

    def has_checkpoint(self, record: Record) -> bool:
        """Return whether the weights are there with which a trial's run goes on."""
        last = self.output / record.run / LAST_CHECKPOINT
        return last.exists() or previous(last).exists()

    def is_over(self, record: Record) -> bool:
        """Return whether a trial's run has come to its end, by its epochs or its patience."""
        run = self.output / record.run
        return (run / "run.json").exists() and read_run(run).get("status") == "finished"

    def write(self, record: Record) -> None:
        """Write the record of a trial."""
        path = self.record(record.trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(record))

    def read(self, trial: str) -> Record | None:
        """Read the record of a trial; None if there is none."""
        path = self.record(trial)
        if not path.exists():
            return None
        return _read_record(path)

    def records(self, objective: str | None = None) -> list[Record]:
        """Read the records of all trials that have begun, by number.

        Args:
            objective: Metric that every finished trial must have a result of.

        Returns:
            The records. Folders whose names are no numbers are none of trials.

        Raises:
            ValueError: If one is damaged.
        """
        paths = self.output.glob("trials/*/trial.json")
        found = {path: _read_record(path) for path in paths if path.parent.name.isdecimal()}
        for path, record in found.items():
            finished = record.status == "finished"
            if objective and finished and not _is_number(record.results.get(objective)):
                raise ValueError(f"{path} is damaged: it has no result `{objective}`.")
        # As text, "08" of a search that was extended would come before "1".
        return sorted(found.values(), key=lambda record: int(record.trial))

    def described(self, entries: Mapping[str, type] = _REPORTED) -> dict[str, Any]:
        """Read what decides the outcome of the search.

        Args:
            entries: Those that it must have, and their types.

        Returns:
            All entries.

        Raises:
            OSError: If there is no record of the search.
            ValueError: If that is damaged.
        """
        recorded = read_json(self.description)
        if not isinstance(recorded, dict):
            raise ValueError(f"{self.description} is damaged: it is no record of a search.")
        wrong = [
            name
            for name, kind in entries.items()
            if name not in recorded or not isinstance(recorded[name], kind)
        ]
        if wrong:
            raise ValueError(f"{self.description} is damaged in or without: {', '.join(wrong)}")
        return recorded

    def claim(self, description: dict[str, Any]) -> None:
        """Make the folder that of a search, which is under way from now on.

        Args:
            description: Of the search.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self.description, description)

    def end(self, description: dict[str, Any]) -> None:
        """Note that a search has nothing left to do."""
        write_json(self.description, {**description, _ENDED: True})

    def claimed(self, description: dict[str, Any]) -> bool:
        """Return whether the folder is that of this search, with as many trials."""
        recorded, now = ({**each, _ENDED: True} for each in (self._recorded(), description))
        return decisive(recorded) == decisive(now)

    def ended(self) -> bool:
        """Return whether its search has nothing left to do."""
        return bool(self._recorded().get(_ENDED))

    def _recorded(self) -> dict[str, Any]:
        return self.described() if self.description.exists() else {}

    def remove_weights(self, records: Iterable[Record]) -> None:
        """Remove the weights and checkpoints of trials' runs."""
        for record in records:
            for name in _WEIGHTS:
                path = self.output / record.run / name
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def results_of(run: Path, metric: str) -> list[float]:
    """Read a metric after each completed epoch of a training run.

    Args:
        run: The folder of the run.
        metric: Its name.

    Returns:
        The values, none if there is no record of the run.

    Raises:
        ValueError: If the record is damaged.
    """
    history = _history(run)
    if not all(_is_number(epoch.get(metric)) for epoch in history):
        raise ValueError(f"{run / 'run.json'} is damaged: an epoch has no `{metric}`.")
    return [epoch[metric] for epoch in history]


def _history(run: Path) -> list[dict[str, Any]]:
    return read_history(run) if (run / "run.json").exists() else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_record(path: Path) -> Record:
    try:
        record = Record(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} is damaged: it is no record of a trial.") from error
    holds = {name: isinstance(getattr(record, name), kind) for name, kind in _TYPES.items()}
    holds["trial"] = record.trial == path.parent.name
    holds["status"] = record.status in _STATUSES
    if holds["values"]:
        holds["values"] = not any(isinstance(each, list | dict) for each in record.values.values())
    if not all(holds.values()):
        wrong = ", ".join(name for name in holds if not holds[name])
        raise ValueError(f"{path} is damaged in: {wrong}")
    return record


def write_recipe(path: Path, recipe: Recipe, comment: Sequence[str] = ()) -> None:
    """Write a recipe as a file that `load_recipe` reads.

    Args:
        path: The TOML file.
        recipe: All its values are written.
        comment: Lines to begin with.
    """
    lines = [f"# {line}\n" for line in comment]
    text = tomli_w.dumps(dataclasses.asdict(recipe))
    with replacing(path) as partial:
        partial.write_text("".join(lines) + text, encoding="utf-8")
