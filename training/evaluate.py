"""Evaluate a net: `python -m training.evaluate --model RUN_OR_KERAS_FILE --data SOURCE`.

Prints the accuracy, and writes `evaluation.json`, `confusion.csv` and `confusion.png`.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.data import evaluation_pipeline
from training.listing.find import add_source_arguments
from training.listing.listing import summary
from training.recipe import recipe_for
from training.records.files import replacing, write_json
from training.records.report import draw_confusion
from training.sources import ImageSource, open_source
from training.trained import Trained, add_trained_arguments, load_trained


@dataclass(frozen=True)
class Evaluation:
    """Results of a net on labeled images.

    Args:
        class_names: Name of each class.
        confusion: Number of images by true class (row) and predicted class (column), int64.
        top5_hits: Number of images whose class is among the five likeliest.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    top5_hits: int

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of the images whose likeliest class is right."""
        return float(np.trace(self.confusion) / self.images)

    @property
    def top5(self) -> float | None:
        """Share of the images with `top5_hits`; None for five classes or fewer."""
        return self.top5_hits / self.images if len(self.class_names) > 5 else None

    @property
    def per_class(self) -> dict[str, float | None]:
        """Share of each class's images that are recognized; None for a class without images."""
        totals = self.confusion.sum(axis=1)
        return {
            name: float(self.confusion[index, index] / total) if total else None
            for index, (name, total) in enumerate(zip(self.class_names, totals, strict=True))
        }


def evaluate(
    model: keras.Model, batches: tf.data.Dataset, class_names: Sequence[str]
) -> Evaluation:
    """Compare a net's answers with the labels.

    Args:
        model: Maps images `(batch, size, size, channels)` to class scores `(batch, classes)`.
        batches: Images and one-hot labels `(batch, classes)`, finite.
        class_names: Name of each class.

    Returns:
        The counts.

    Raises:
        ValueError: If there are no images.
    """
    confusion = np.zeros((len(class_names), len(class_names)), np.int64)
    top5_hits = 0
    for images, one_hot in batches:
        scores = model.predict_on_batch(images)
        labels = np.argmax(one_hot, axis=-1)
        np.add.at(confusion, (labels, np.argmax(scores, axis=-1)), 1)
        likeliest = np.argsort(-scores, axis=-1, kind="stable")[:, :5]
        top5_hits += int(np.sum(likeliest == labels[:, np.newaxis]))
    if not confusion.any():
        raise ValueError("There are no images to evaluate on.")
    return Evaluation(tuple(class_names), confusion, top5_hits)


def write_evaluation(output: Path, evaluation: Evaluation, about: dict[str, Any]) -> None:
    """Write `evaluation.json`, `confusion.csv` and `confusion.png`.

    Args:
        output: The folder; it is created if need be.
        evaluation: The counts.
        about: Entries of `evaluation.json` about model and images.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (
        replacing(output / "confusion.csv") as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["true class \\ predicted", *evaluation.class_names])
        for name, row in zip(evaluation.class_names, evaluation.confusion, strict=True):
            writer.writerow([name, *row])
    draw_confusion(output / "confusion.png", evaluation.confusion, evaluation.class_names)
    results = {name: getattr(evaluation, name) for name in ("images", "top1", "top5", "per_class")}
    write_json(output / "evaluation.json", about | results)


def describe(evaluation: Evaluation) -> str:
    """Format the results as lines of text."""
    width = max(len(name) for name in evaluation.class_names)
    lines = [f"Images  {evaluation.images}", f"Top-1   {evaluation.top1:.2%}"]
    if evaluation.top5 is not None:
        lines.append(f"Top-5   {evaluation.top5:.2%}")
    lines.append("By class:")
    for name, share in evaluation.per_class.items():
        lines.append(f"  {name:{width}}  " + ("no images" if share is None else f"{share:.2%}"))
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a net's accuracy and draw its confusion matrix.",
        allow_abbrev=False,
    )
    add_trained_arguments(parser)
    parser.add_argument(
        "--data", metavar="SOURCE", help="as for training.train (default: what the run used)"
    )
    add_source_arguments(parser)
    parser.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: the model's folder)"
    )
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="default: 128")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0, or 2 for a wrong argument.
    """
    options = parse_arguments(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    trained = load_trained(options)
    name = options.data or trained.record.get("source")
    if name is None:
        raise ValueError("--data is needed for a model outside the folder of its run.")
    source = open_for(trained.record, name, options.data_dir, options.validation_split)
    print(summary(source), flush=True)
    _check_fit(trained, source.class_names)
    if trained.record and trained.record["class_names"] != list(source.class_names):
        print(f"Note: the classes of {name} are not named as those the net was trained on.")
    recipe = recipe_for(trained.preprocessing, batch_size=options.batch_size)
    batches = evaluation_pipeline(source, recipe, options.split)
    evaluation = evaluate(trained.model, batches, source.class_names)
    output = options.output or trained.file.parent
    about = {"model": os.fspath(trained.file), "source": source.name, "split": options.split}
    write_evaluation(output, evaluation, about)
    print(describe(evaluation))
    print(f"Written: {output}/evaluation.json, confusion.csv, confusion.png")


def open_for(
    record: Mapping[str, Any],
    name: str,
    data_dir: str | None = None,
    validation_split: float | None = None,
) -> ImageSource:
    """Open the images that a net is evaluated on, those that it was trained on left out.

    Where the images of its run had no test split, the same ones are held out of any set without
    one: the hashes of their names decide, wherever the set lies. Else all images of such a set are
    for testing.

    Args:
        record: The record of its run; empty where there is none.
        name: As for `training.sources.open_source`.
        data_dir: The same.
        validation_split: The same.

    Returns:
        The source.

    Raises:
        ValueError: If there is no such set.
        FileNotFoundError: If there is no such folder.
    """
    recorded = record.get("validation_split")
    if validation_split is None and name == record.get("source"):
        validation_split = recorded
    return open_source(name, data_dir, validation_split, default_split=recorded or 1)


def _check_fit(trained: Trained, class_names: Sequence[str]) -> None:
    preprocessing, model = trained.preprocessing, trained.model
    expected = (preprocessing.input_size, preprocessing.input_size, preprocessing.channels)
    pairs = zip(model.input_shape[1:], expected, strict=True)
    if any(size not in (None, wanted) for size, wanted in pairs):
        raise ValueError(
            f"The net takes images of shape {model.input_shape[1:]}; "
            f"the preprocessing makes {expected}."
        )
    if model.output_shape[-1] != len(class_names):
        raise ValueError(
            f"The net has {model.output_shape[-1]} classes; the images have {len(class_names)}."
        )


if __name__ == "__main__":
    sys.exit(main())
