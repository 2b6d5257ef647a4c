"""Folders of runs: their files, and whether a run may go on in one."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_preact
from keras_preact.files import PARTIAL, read_json, write_json
from training.listing.listing import is_same_set
from training.recipe import Recipe, decisive, differences
from training.records.checkpoint import Progress, save_net
from training.records.report import draw_curves, write_history_csv
from training.task import ONE_CLASS

# File of a run's last checkpoint, in the run's folder.
LAST_CHECKPOINT = Path("checkpoint", "last.npz")
# Drawing curves takes at most this part of a run's time, however short its epochs.
DRAWING_SHARE = 0.05
# Builders whose stem was not activated by default.
_NOT_ACTIVATED_IN_0_1 = ("PreActResNet20", "PreActResNet56", "PreActResNet110")


class Run:
    """The folder of a run and its `run.json`.

    Args:
        output: The folder; it need not exist yet.
        description: Everything that decides the outcome of the run, as JSON: `recipe`, `source`,
            `class_names`, `images` and so on.

    Raises:
        FileExistsError: If the folder holds something else, or a run of another description.
    """

    def __init__(self, output: Path, description: dict[str, Any]) -> None:
        self.output = output
        self.model = output / "model.keras"
        self.best_model = output / "best.keras"
        self.curves = output / "curves.png"
        self.history_csv = output / "history.csv"
        self.tensorboard = output / "tensorboard"
        self.checkpoint = output / LAST_CHECKPOINT
        self._record = output / "run.json"
        self._description = description
        self._listed: list[dict[str, Any]] = []
        self._drawn: list[dict[str, Any]] = []
        self._draw_after = -math.inf
        # Epoch of `best.keras`; None where another process wrote it.
        self._kept: int | None = None
        self._check_output()

    @property
    def finished(self) -> bool:
        """Whether an earlier process completed the run."""
        try:
            return self._record.exists() and read_run(self.output).get("status") == "finished"
        except ValueError:
            # It is written anew; see `_check_record`.
            return False

    def start(self, command: list[str], device_names: list[str]) -> None:
        """Create the folder, and record the command, versions and devices of the run.

        A run that is killed from now on may go on: its `run.json` says which run it is.

        Args:
            command: The command line.
            device_names: The processors.
        """
        self._description |= {
            "versions": _versions(),
            "git_revision": _git_revision(),
            "devices": device_names,
            "command": shlex.join(command),
        }
        self.output.mkdir(parents=True, exist_ok=True)
        if not self._record.exists():
            self.write(Progress(), "running")
        self.checkpoint.parent.mkdir(exist_ok=True)

    def save_best(self, net: keras.Model, progress: Progress) -> None:
        """Save the net of the best epoch, which waits for the checkpoint after that epoch.

        Until then a run that is killed or goes back knows another best epoch.

        Args:
            net: The net.
            progress: How far the run has come.
        """
        best = _best_epoch(progress)
        save_net(net, self._net_of(best))
        self._discard(lambda epoch: epoch == best or epoch < (self._kept or 0))

    def keep_best(self, progress: Progress) -> None:
        """Make the net of the best epoch `best.keras`, and forget nets of discarded epochs.

        The one that it replaces is kept beside the checkpoint before, which may have to count; see
        `load_progress`.

        Args:
            progress: How far the run has come, as in its last checkpoint.
        """
        best, before = _best_epoch(progress), self._kept
        if self._net_of(best).exists():
            if before and self.best_model.exists():
                os.replace(self.best_model, self._net_of(before))
            os.replace(self._net_of(best), self.best_model)
        # Nobody knows, in a new process, which epoch was the best at the checkpoint before.
        self._discard(lambda epoch: epoch < best and before in (None, epoch))
        self._kept = best

    def write(self, progress: Progress, status: str) -> None:
        """Bring `run.json` and the table up to date, and the curves if they are due.

        Args:
            progress: How far the run has come.
            status: `"running"` or `"finished"`.
        """
        if status == "finished":
            self._discard(lambda epoch: False)
        # Within an epoch, and at the end of a run that was just saved, there is nothing new.
        if progress.history and progress.history != self._listed:
            write_history_csv(self.history_csv, progress.history)
            self._listed = list(progress.history)
        if time.monotonic() >= self._draw_after:
            self.draw(progress)
        record = {
            "status": status,
            "best": progress.best,
            "history": progress.history,
            "rollbacks": progress.rollbacks,
            "stopped_early": status == "finished"
            and progress.epochs < self._description["recipe"]["epochs"],
        }
        write_json(self._record, self._description | record)

    def draw(self, progress: Progress) -> None:
        """Bring the curves up to date, which `write` does only when they are due.

        Args:
            progress: How far the run has come.
        """
        if not progress.history or progress.history == self._drawn:
            return
        start = time.monotonic()
        draw_curves(self.curves, progress.history, self._title())
        self._drawn = list(progress.history)
        end = time.monotonic()
        self._draw_after = end + (end - start) / DRAWING_SHARE

    def _net_of(self, epoch: int) -> Path:
        """Return the path of the net of a best epoch that is not, or no longer, `best.keras`."""
        return self.checkpoint.with_name(f"best-{epoch}.keras")

    def _discard(self, needs: Callable[[int], bool]) -> None:
        """Remove the nets of best epochs that are not needed."""
        for path in self.checkpoint.parent.glob("*best-*.keras"):
            # A killed process may have left a part of one.
            epoch = path.stem.removeprefix("best-")
            if not (epoch.isdecimal() and needs(int(epoch))):
                path.unlink()

    def _title(self) -> str:
        recipe = self._description["recipe"]
        name = self._description["recipe_name"]
        source = Path(self._description["source"]).name
        return f"{recipe['model']} on {source}, recipe {name}"

    def _check_output(self) -> None:
        if not self.output.exists():
            return
        if not self.output.is_dir():
            raise FileExistsError(f"--output must be a folder. Received a file: {self.output}")
        if self._record.exists():
            self._check_record()
            return
        others = [path.name for path in self.output.iterdir() if not _is_ours(path)]
        if others:
            raise FileExistsError(
                f"--output must be new, empty or the folder of the same run. {self.output} has no "
                f"run.json and holds: {', '.join(sorted(others)[:5])}"
            )

    def _check_record(self) -> None:
        """Check that the record is of the same run, unless it is damaged and is not needed."""
        try:
            recorded = read_run(self.output)
            if missing := {"status", "recipe", "source", "class_names", "images"} - {*recorded}:
                raise ValueError(f"{self._record} is damaged: it has no {', '.join(missing)}.")
        except ValueError as error:
            if not self.checkpoint.exists():
                raise
            print(f"{error} It is written anew from {self.checkpoint}.", file=sys.stderr)
            return
        self._check_same_run(recorded)

    def _check_same_run(self, recorded: dict[str, Any]) -> None:
        # A value that an earlier version did not know had the default's effect.
        recipe = {**dataclasses.asdict(Recipe()), **recorded["recipe"]}
        changes = differences(decisive(recipe), decisive(self._description["recipe"]))
        names = ["class_names", "images"]
        if not is_same_set(str(recorded["source"]), self._description["source"]):
            names.append("source")
        for name in names:
            changes += differences({name: recorded[name]}, {name: self._description[name]})
        # Each loader draws random numbers of its own.
        for name, default in (
            ("data_on_device", False),
            ("validation_split", None),
            ("activation", ONE_CLASS.activation),
        ):
            then, now = recorded.get(name, default), self._description.get(name, default)
            # An earlier version noted no `validation_split` of shards; of others `images` tells it.
            if then is not None:
                changes += differences({name: then}, {name: now})
        if changes:
            raise FileExistsError(
                f"{self.output} holds another run. Give another --output, or the same values:\n  "
                + "\n  ".join(changes)
            )


def read_run(output: str | Path) -> dict[str, Any]:
    """Read the `run.json` of a run.

    Args:
        output: The folder of the run.

    Returns:
        Its values.

    Raises:
        OSError: If there is none.
        ValueError: If it is damaged.
    """
    path = Path(output) / "run.json"
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: it is no record of a run.")
    return _with_the_net_of_its_version(record)


def read_history(output: str | Path) -> list[dict[str, Any]]:
    """Read the records of the completed epochs of a run.

    Args:
        output: The folder of the run.

    Returns:
        One record for each.

    Raises:
        OSError: If there is no `run.json`.
        ValueError: If it is damaged.
    """
    history = read_run(output).get("history")
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        raise ValueError(f"{Path(output) / 'run.json'} is damaged: it has no history of epochs.")
    return history


def _with_the_net_of_its_version(record: dict[str, Any]) -> dict[str, Any]:
    """Say in a record what a builder's defaults were when the run began."""
    recipe, versions = record.get("recipe"), record.get("versions")
    if not isinstance(recipe, dict) or not isinstance(versions, dict):
        # Whoever needs them says that they are missing.
        return record
    is_0_1 = str(versions.get("keras_preact")).startswith("0.1.")
    if is_0_1 and recipe.get("model") in _NOT_ACTIVATED_IN_0_1:
        recipe["model_options"] = {"activated_stem": False, **recipe.get("model_options", {})}
    return record


def _best_epoch(progress: Progress) -> int:
    """Return the number of the best epoch; 0 before the first."""
    return progress.best.get("epoch", 0)


def _is_ours(path: Path) -> bool:
    """Return whether a process killed before the first `run.json` may have left this file."""
    if path.name == "checkpoint" and path.is_dir():
        return all(each.name.startswith(PARTIAL) for each in path.iterdir())
    return path.name.startswith(PARTIAL)


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    return {
        "keras_preact": keras_preact.__version__,
        "keras": keras.__version__,
        backend: importlib.import_module(backend).__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _git_revision() -> str | None:
    """Return the commit of the checkout, with `-dirty` if files have changed; None outside git."""
    # `git describe --dirty` would lock and write the index, of which a full disk leaves a half.
    revision = _git("rev-parse", "HEAD")
    if revision and _git("status", "--porcelain", "--untracked-files=no"):
        return f"{revision}-dirty"
    return revision


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
