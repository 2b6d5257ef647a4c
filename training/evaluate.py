"""Evaluate a net: `python -m training.evaluate --model RUN_OR_KERAS_FILE --data SOURCE`.

Prints accuracy, negative log-likelihood and calibration error, and writes `evaluation.json`,
`confusion.csv` and `confusion.png`; of several labels per image mean average precision, and only
`evaluation.json`. `--weights NAME` evaluates published weights instead, and
prints the published accuracy beside the measured one.
"""

from __future__ import annotations

import argparse
import collections
import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_preact.analysis.calibration import reliability
from keras_preact.files import replacing, write_json
from keras_preact.output_kinds import CLASSES, output_kind
from keras_preact.preprocessing import Preprocessing, decode_predictions
from keras_preact.weights import Entry, find_entry
from keras_preact.weights.catalogue import DATASETS
from keras_preact.weights.figures import Figure
from training.compiling import TINY
from training.data import evaluation_pipeline
from training.label_evaluation import LabelEvaluation, measured_labels
from training.listing.find import add_source_arguments
from training.listing.listing import is_same_set, summary
from training.loading.corrupt import named
from training.net import build_net
from training.recipe import Recipe, recipe_for
from training.records.report import draw_confusion
from training.sources import ImageSource, open_source, prepared_split
from training.task import LABELS
from training.trained import add_trained_arguments, load_trained, preprocessing_for


@dataclass(frozen=True)
class Evaluation:
    """Results of a net on labeled images.

    Args:
        class_names: Name of each class.
        confusion: Number of images by true class (row) and predicted class (column), int64.
        top5_hits: Number of images whose class is among the five likeliest.
        nll: Mean negative log-likelihood of the true class; None where the net's answers are no
            probabilities.
        ece: Expected calibration error (arXiv:1706.04599), a share; None where `nll` is.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    top5_hits: int
    nll: float | None = None
    ece: float | None = None

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
        """Share of each class's images that are recognized; None for a class without images.

        Where classes share a name, as both `crane` of ImageNet, their numbers follow it.
        """
        found = collections.Counter(self.class_names)
        names = [
            name if found[name] == 1 else f"{name} ({number})"
            for number, name in enumerate(self.class_names)
        ]
        totals = self.confusion.sum(axis=1)
        return {
            name: float(self.confusion[index, index] / total) if total else None
            for index, (name, total) in enumerate(zip(names, totals, strict=True))
        }


def _answers(
    model: keras.Model,
    batches: tf.data.Dataset,
    truth: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a net's scores of images, float32 `(images, classes)`, and the truth of their labels.

    Args:
        model: The net.
        batches: Images and labels `(batch, classes)`, finite.
        truth: Maps the labels of a batch to what is kept of them.

    Raises:
        ValueError: If there are no images, or the net's answers are not numbers.
    """
    # JAX takes no tensors of TensorFlow.
    answers = [
        (np.asarray(model.predict_on_batch(images), "float32"), truth(labels))
        for images, labels in batches.as_numpy_iterator()
    ]
    if not answers:
        raise ValueError("There are no images to evaluate on.")
    scores, labels = (np.concatenate(each) for each in zip(*answers, strict=True))
    if wrong := int(np.isnan(scores).any(axis=1).sum()):
        raise ValueError(
            f"The net's answers must be numbers. Received: NaN for {wrong} of {len(scores)} images"
        )
    return scores, labels


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
        ValueError: If there are no images, or the net's answers are not numbers.
    """
    scores, labels = _answers(model, batches, lambda one_hot: np.argmax(one_hot, axis=-1))
    confusion = np.zeros((len(class_names), len(class_names)), np.int64)
    np.add.at(confusion, (labels, np.argmax(scores, axis=-1)), 1)
    likeliest = np.argsort(-scores, axis=-1, kind="stable")[:, :5]
    top5_hits = int(np.sum(likeliest == labels[:, np.newaxis]))
    return Evaluation(tuple(class_names), confusion, top5_hits, *_calibration(scores, labels))


def _calibration(scores: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    """Return the mean negative log-likelihood and the expected calibration error."""
    if not (scores.min() >= 0 and np.abs(scores.sum(axis=1) - 1).max() <= 1e-3):
        return None, None
    likelihoods = np.maximum(scores[np.arange(len(labels)), labels], TINY)
    return float(-np.log(likelihoods).mean()), reliability(scores, labels).expected_error


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
    names = ("images", "top1", "top5", "nll", "ece", "per_class")
    results = {name: getattr(evaluation, name) for name in names}
    write_json(output / "evaluation.json", about | results)


def describe(evaluation: Evaluation, published: Figure | None = None) -> str:
    """Format the results as lines of text.

    Args:
        evaluation: The results.
        published: The published accuracies that they are to be compared with.

    Returns:
        The lines.
    """
    width = max(map(len, evaluation.per_class))
    lines = [f"Images  {evaluation.images}"]
    for number in (1, 5):
        measured = getattr(evaluation, f"top{number}")
        if measured is not None:
            beside = published and getattr(published, f"top{number}")
            line = f"Top-{number}   {measured:.2%}"
            lines.append(line if beside is None else f"{line}   published {beside:.2f}%")
    if evaluation.nll is not None:
        lines += [f"NLL     {evaluation.nll:.4f}", f"ECE     {evaluation.ece:.2%}"]
    lines.append("By class:")
    for name, share in evaluation.per_class.items():
        lines.append(f"  {name:{width}}  " + ("no images" if share is None else f"{share:.2%}"))
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description="Measure a net's accuracy and draw its confusion matrix; of several labels per "
        "image, its mean average precision.",
        allow_abbrev=False,
    )
    add_trained_arguments(parser, published=True)
    parser.add_argument(
        "--data", metavar="SOURCE", help="as for training.train (default: what the run used)"
    )
    add_test_arguments(parser)
    parser.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: the model's folder)"
    )
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="default: 128")
    return parser.parse_args(arguments)


def add_test_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which images a net is tested on, and how they are read.

    Args:
        parser: Where to add them, for `open_for` and `recipe_of_tests`.
    """
    add_source_arguments(parser)
    parser.add_argument(
        "--max-corrupt-images",
        type=int,
        metavar="N",
        help="unreadable images that are left out before it stops (default: as in the run, or "
        f"{Recipe.max_corrupt_images})",
    )


def recipe_of_tests(
    options: argparse.Namespace,
    preprocessing: Preprocessing,
    record: Mapping[str, Any],
    batch_size: int = Recipe.batch_size,
) -> Recipe:
    """Return the recipe by which the images are read that a net is tested on.

    Args:
        options: The options read by a parser with `add_test_arguments`.
        preprocessing: The preprocessing of the net's images.
        record: The record of its run; empty where there is none.
        batch_size: Images of a batch.

    Returns:
        The recipe; its other values are the defaults.

    Raises:
        ValueError: If a value is out of its range.
    """
    limit = options.max_corrupt_images
    if limit is None:
        limit = record.get("recipe", {}).get("max_corrupt_images", Recipe.max_corrupt_images)
    return recipe_for(preprocessing, batch_size=batch_size, max_corrupt_images=limit)


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


@dataclass(frozen=True)
class _Net:
    """The net to evaluate.

    Attributes:
        name: Its file, or its published name.
        model: The net.
        preprocessing: The preprocessing of its images.
        record: The record of its run; empty where there is none.
        folder: Where its results go by default; None for published weights.
        entry: The entry of the catalogue, of published weights.
    """

    name: str
    model: keras.Model
    preprocessing: Preprocessing
    record: dict[str, Any]
    folder: Path | None = None
    entry: Entry | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> _Net:
        """Load the net that the options name."""
        if options.weights is None:
            trained = load_trained(options)
            file = trained.file
            return cls(
                os.fspath(file), trained.model, trained.preprocessing, trained.record, file.parent
            )
        entry = find_entry(options.weights)
        if entry.classes is None:
            raise ValueError(f"{entry.name!r} holds no classifier to evaluate.")
        preprocessing = preprocessing_for(options, entry.preprocessing.get_config())
        recipe = recipe_for(preprocessing, model=entry.builder)
        model = build_net(recipe, entry.classes, weights=entry.name)
        return cls(entry.name, model, preprocessing, {}, entry=entry)

    def knows(self, class_names: Sequence[str]) -> bool:
        """Return whether these are the classes that it was trained on, as far as is known."""
        if self.record:
            return self.record["class_names"] == list(class_names)
        if self.entry is None or self.entry.classes is None:
            return True
        classes = self.entry.classes
        data = next((name for name in DATASETS if DATASETS[name].classes == classes), None)
        if data is None:
            return True
        rows = decode_predictions(np.eye(classes), top=1, weights=data)
        return any(list(class_names) == [row[0][part] for row in rows] for part in range(2))


def _run(options: argparse.Namespace) -> None:
    net = _Net.of(options)
    name = options.data or net.record.get("source")
    if name is None:
        raise ValueError("--data is needed for a model outside the folder of its run.")
    source = open_for(net.record, name, options.data_dir, options.validation_split)
    print(summary(source), flush=True)
    _check_fit(net, source)
    if not net.knows(source.class_names):
        print(f"Note: the classes of {name} are not named as those the net was trained on.")
    recipe = recipe_of_tests(options, net.preprocessing, net.record, options.batch_size)
    batches = evaluation_pipeline(source, recipe, options.split)
    with named(source):
        evaluation = _measured(net.model, batches, source)
    output = options.output or net.folder
    about = {"model": net.name, "source": source.name, "split": options.split}
    if isinstance(evaluation, LabelEvaluation):
        print("\n".join(evaluation.lines()))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "evaluation.json", about | evaluation.results())
            print(f"Written: {output}/evaluation.json")
        return
    figures = net.entry.figures if net.entry else ()
    print(describe(evaluation, next(filter(_like(net.preprocessing), figures), None)))
    for figure in figures:
        print(_in_words(figure))
    if output:
        about |= {"published": [vars(figure) for figure in figures]} if figures else {}
        write_evaluation(output, evaluation, about)
        print(f"Written: {output}/evaluation.json, confusion.csv, confusion.png")


def _measured(
    model: keras.Model, batches: tf.data.Dataset, source: ImageSource
) -> Evaluation | LabelEvaluation:
    if source.label_sets is None:
        return evaluate(model, batches, source.class_names)
    return measured_labels(*_answers(model, batches), source.class_names)


def _like(preprocessing: Preprocessing) -> Callable[[Figure], bool]:
    """Return a function that tells whether a figure is of images of this size and crop."""
    size, crop = preprocessing.input_size, preprocessing.crop_fraction
    return lambda figure: figure.input_size == size and figure.crop_fraction in (crop, None)


def _in_words(figure: Figure) -> str:
    crop = "" if figure.crop_fraction is None else f", crop fraction {figure.crop_fraction}"
    top5 = "" if figure.top5 is None else f", top-5 {figure.top5:.2f}%"
    size = f"{figure.input_size}x{figure.input_size}"
    return f"Published at {size}{crop}: top-1 {figure.top1:.2f}%{top5} ({figure.source})"


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
        data_dir: The same; that of the run by default, where the set is the run's.
        validation_split: The same; 0 for the set's own test split, where its run held out others.

    Returns:
        The source.

    Raises:
        ValueError: If there is no such set.
        FileNotFoundError: If there is no such folder.
    """
    recorded = record.get("validation_split")
    source = record.get("source")
    if recorded is None and source:
        # An earlier version noted none of shards.
        recorded = prepared_split(Path(source))
    if source and is_same_set(name, source):
        data_dir = data_dir or record.get("data_dir")
        validation_split = recorded if validation_split is None else validation_split
    # As `open_source` takes it.
    validation_split = validation_split or None
    return open_source(name, data_dir, validation_split, default_split=recorded or 1)


def _check_fit(net: _Net, source: ImageSource) -> None:
    preprocessing, model, class_names = net.preprocessing, net.model, source.class_names
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise ValueError(
            "The net must have one output of class scores `(batch, classes)`. Received: outputs "
            f"{[tuple(each.shape) for each in model.outputs]}"
        )
    _check_task(net, source)
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


def _check_task(net: _Net, source: ImageSource) -> None:
    """Check that the net tells what the images are labeled with: one class, or any number."""
    labels = source.label_sets is not None
    # A sigmoid may also be trained to tell one class: only a run's record says which it was.
    recorded = net.record.get("activation")
    tells_one = output_kind(net.model.outputs[0], named=True) == CLASSES
    if labels and tells_one or not labels and recorded == LABELS.activation:
        told, given = ("one class", "any number of labels") if labels else ("labels", "one class")
        raise ValueError(
            f"The net tells {told} of an image. Those of {source.name!r} have {given}."
        )


if __name__ == "__main__":
    sys.exit(main())
