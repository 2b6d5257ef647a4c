"""A trained net, named on a command line by the folder of its run or by its `.keras` file."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

# Also registers the layers that a .keras file of this package names.
from keras_preact.preprocessing import INTERPOLATIONS, Preprocessing
from training.run import read_run


@dataclass(frozen=True)
class Trained:
    """A trained net with its preprocessing and the record of its run.

    Args:
        file: The `.keras` file.
        model: The net, uncompiled.
        preprocessing: The preprocessing of its images.
        record: The `run.json` beside the file; empty where there is none.
    """

    file: Path
    model: keras.Model
    preprocessing: Preprocessing
    record: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any] | None:
        """Return the record of the epoch that the net is of; None where it is not known.

        It is not known of an unfinished run's `model.keras`, which may be older than the record,
        nor where images are preprocessed otherwise than in the run.
        """
        record = self.record
        if self.preprocessing != Preprocessing(**record.get("preprocessing", {})):
            return None
        if self.file.name == "best.keras":
            return record.get("best") or None
        if self.file.name == "model.keras" and record.get("status") == "finished":
            return record["history"][-1]
        return None


def add_trained_arguments(parser: argparse.ArgumentParser, *, published: bool = False) -> None:
    """Add the options that `load_trained` reads: `--model` and the preprocessing.

    Args:
        parser: Where to add them.
        published: Whether `--weights`, the name of published weights, may stand in the place of
            `--model`.
    """
    group = parser.add_mutually_exclusive_group(required=True)
    if published:
        group.add_argument(
            "--weights",
            metavar="NAME",
            help="published weights; `python -m keras_preact.weights list` prints them",
        )
    group.add_argument(
        "--model",
        type=Path,
        metavar="RUN_OR_KERAS_FILE",
        help="folder of a run (its model.keras), or a .keras file; preprocessing and class names "
        "come from the run.json beside the file, where there is one",
    )
    group = parser.add_argument_group(
        "preprocessing", "Needed for a model outside a run's folder; otherwise they override it."
    )
    group.add_argument(
        "--input-size", type=int, metavar="N", help="height and width of the input, pixels"
    )
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        group.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"{what} of each channel, for pixels in 0..1",
        )
    group.add_argument(
        "--crop-fraction",
        type=float,
        metavar="X",
        help="share of the resized image's shorter side that the crop keeps "
        f"(default: {Preprocessing.crop_fraction})",
    )
    group.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        help=f"how images are resized (default: {Preprocessing.interpolation})",
    )


def load_trained(options: argparse.Namespace) -> Trained:
    """Load the net that the options name.

    Args:
        options: The options read by a parser with `add_trained_arguments`.

    Returns:
        The net, with its run's preprocessing, each value replaced where its option is given.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a file is damaged or an option is missing or out of its range.
    """
    file = options.model / "model.keras" if options.model.is_dir() else options.model
    if not file.exists():
        raise FileNotFoundError(
            f"there is no {file}: give a .keras file or the folder of a finished run (of an "
            "unfinished one, its best.keras)"
        )
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a .keras file")
    record = read_record(file.parent)
    preprocessing = preprocessing_for(options, record.get("preprocessing", {}))
    model = keras.saving.load_model(file, compile=False)
    return Trained(file, model, preprocessing, record)


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of a run, for a net that may have none.

    Args:
        folder: The folder of the net's file.

    Returns:
        Its `run.json`; empty where there is none.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return read_run(folder)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / 'run.json'} is not the record of a run: {error}") from error


def preprocessing_for(options: argparse.Namespace, known: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that the options name.

    Args:
        options: The options read by a parser with `add_trained_arguments`.
        known: Values of a `Preprocessing` where the options give none.

    Returns:
        The preprocessing.

    Raises:
        ValueError: If a value is neither given nor known, or out of its range.
    """
    config = dict(known)
    for name in ("input_size", "mean", "std", "crop_fraction", "interpolation"):
        if getattr(options, name) is not None:
            config[name] = getattr(options, name)
    missing = [name for name in ("input_size", "mean", "std") if name not in config]
    if missing:
        needed = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ValueError(
            f"a model outside the folder of its run (with run.json) needs {needed}: what its "
            "images were resized to and normalized by in training"
        )
    return Preprocessing(**config)
