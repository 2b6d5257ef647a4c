r"""KerasTuner's own `HyperResNet`, searched by its own Hyperband within so many processor seconds.

    python -m benchmarks.hyper_resnet --data DIR --output DIR --seconds 1500

The images, their augmentation, the batch and the most epochs are those of `benchmarks.search`.
The search is KerasTuner's as it comes, but that it ends with the time. Started again, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from benchmarks.command import failed
from benchmarks.search import RECIPE_OPTIONS
from keras_preact.analysis import model_cost
from keras_preact.files import read_json, replacing, write_json
from training.data import evaluation_pipeline, training_pipeline
from training.recipe import Recipe, differences, steps_per_epoch
from training.sources import open_source
from training.train import parse_arguments as parse_training

# As in `benchmarks.search`.
HELD_OUT = 0.1


class OutOfTime(keras_tuner.errors.FatalError):
    """The processor seconds are used up: what ends KerasTuner's search."""


class Account:
    """Time used and trials found by the search, kept in a file.

    Args:
        path: The JSON file.
        seconds: Processor seconds that it may use.
        description: The images and the recipe, as JSON values.

    Attributes:
        values: Content of the file.
        done: Whether the best net of a search of as many seconds was tested.

    Raises:
        ValueError: If the file is that of another search.
    """

    def __init__(self, path: Path, seconds: float, description: dict[str, Any]) -> None:
        self._path = path
        self._limit = seconds
        self.values: dict[str, Any] = {"of": description, "seconds": 0.0, "epochs": []}
        if path.exists():
            self.values = read_json(path)
        # Earlier versions did not say of which search.
        if changes := differences(self.values.get("of", description), description):
            raise ValueError(
                f"{path} is of another search. Give another --output, or the same values:\n  "
                + "\n  ".join(changes)
            )
        self.done = "test_top1" in self.values and seconds <= self.values["limit"]
        if not self.done:
            self.values.pop("test_top1", None)
        self._before = self.values["seconds"] - time.process_time()

    @property
    def out(self) -> bool:
        """Whether the time is used up."""
        return self._before + time.process_time() > self._limit

    def add(self, epoch: dict[str, Any]) -> None:
        """Note an epoch."""
        self.values["epochs"].append(epoch)
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.values |= {"limit": self._limit, "seconds": self._before + time.process_time()}
        write_json(self._path, self.values)


class Bookkeeper(keras.callbacks.Callback):
    """Notes every epoch, keeps the best net, and ends the search with the time.

    Args:
        account: Where it notes them.
        best: File of the best net.
    """

    def __init__(self, account: Account, best: Path) -> None:
        super().__init__()
        self._account = account
        self._best = best

    def __deepcopy__(self, memo: dict[int, Any]) -> Bookkeeper:
        # KerasTuner copies the callbacks for each trial; the account is one.
        return Bookkeeper(self._account, self._best)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End the search if the time is over.

        Raises:
            OutOfTime: If it is.
        """
        if self._account.out:
            self._account.save()
            raise OutOfTime

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note what the net is and what the epoch brought."""
        cost = model_cost(self.model).total
        accuracy = float((logs or {})["val_accuracy"])
        if accuracy > max((each["val_top1"] for each in self._account.values["epochs"]), default=0):
            with replacing(self._best) as partial:
                self.model.save(partial)
        record = {"epoch": epoch + 1, "val_top1": accuracy}
        self._account.add(record | {"flops": cost.flops, "parameters": cost.parameters})


def search(recipe: Recipe, data: str, output: Path, account: Account) -> None:
    """Search until the time, or KerasTuner's Hyperband, is over.

    Args:
        recipe: The images, the batch and the most epochs.
        data: See `training.train`.
        output: Folder for KerasTuner's files and the best net.
        account: Of the time.
    """
    source = open_source(data, None, HELD_OUT)
    shape = (recipe.input_size, recipe.input_size, recipe.channels)
    tuner = keras_tuner.Hyperband(
        keras_tuner.applications.HyperResNet(input_shape=shape, classes=len(source.class_names)),
        objective=keras_tuner.Objective("val_accuracy", "max"),
        max_epochs=recipe.epochs,
        seed=recipe.seed + 1,
        directory=str(output),
        project_name="tuner",
    )
    try:
        tuner.search(
            training_pipeline(source, recipe),
            validation_data=evaluation_pipeline(source, recipe),
            steps_per_epoch=steps_per_epoch(source, recipe),
            callbacks=[Bookkeeper(account, output / "best.keras")],
            verbose=2,
        )
    except OutOfTime:
        print(f"The processor seconds are used up: {account.values['seconds']:.0f}.")


def write_test_accuracy(recipe: Recipe, data: str, output: Path, account: Account) -> None:
    """Measure the best net on images that no search has seen."""
    net = keras.saving.load_model(output / "best.keras")
    batches = evaluation_pipeline(open_source(data), recipe)
    account.values["test_top1"] = net.evaluate(batches, return_dict=True, verbose=0)["accuracy"]
    best = max(account.values["epochs"], key=lambda epoch: epoch["val_top1"])
    account.values["best"] = best
    account.save()
    with replacing(output / "epochs.csv") as partial, open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=best)
        writer.writeheader()
        writer.writerows(account.values["epochs"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hyper_resnet")
    parser.add_argument("--data", required=True, help="images; the best net is tested in the end")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--seconds", type=float, required=True, help="of processor time")
    options, others = parser.parse_known_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    given = ["--data", options.data, "--output", str(options.output)]
    try:
        _, recipe = parse_training([*RECIPE_OPTIONS, *given, *others])
        # As it will be read back: lists instead of tuples.
        about = json.loads(json.dumps({"data": options.data, **dataclasses.asdict(recipe)}))
        account = Account(options.output / "account.json", options.seconds, about)
    except (ValueError, OSError) as error:
        return failed("benchmarks.hyper_resnet", error)
    if account.done:
        return 0
    if not account.out:
        search(recipe, options.data, options.output, account)
    if not account.values["epochs"]:
        print("Not one epoch was completed in the time.", file=sys.stderr)
        return 1
    write_test_accuracy(recipe, options.data, options.output, account)
    return 0


if __name__ == "__main__":
    sys.exit(main())
