"""Shipping of a run's net: `python -m training.publish --model RUN --output FOLDER`.

It writes the weights with 16-bit kernels, `NAME.weights.h5`, evaluates the net again with the
content of that file, and writes a model card, `NAME.md`, which it also prints. A row of
`keras_preact.weights.catalogue` needs the SHA-256 and the accuracy.

With `--hub` it writes a folder for the Hugging Face Hub in their place, `NAME`, as
`keras_preact.to_config_folder` does, and with `--push USER/REPO` it uploads it. After an upload
that failed, the same command uploads the folder that it wrote.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_preact import from_config_folder, push_to_hub, to_config_folder
from keras_preact.files import replacing
from keras_preact.named_weights import named_weights
from keras_preact.preprocessing import Preprocessing, Preprocessor
from keras_preact.weights import save_half_precision
from keras_preact.weights.hugging_face import library, repository
from training.data import evaluation_pipeline
from training.evaluate import (
    Evaluation,
    add_test_arguments,
    evaluate,
    open_for,
    recipe_of_tests,
)
from training.loading.corrupt import named
from training.net import build_net, file_of
from training.recipe import Recipe
from training.sources import ImageSource
from training.trained import Trained, add_trained_arguments, load_trained, read_record

# SPDX identifier of the license of this package's own weights.
LICENCE = "apache-2.0"


def publish(
    trained: Trained,
    tests: tf.data.Dataset,
    output: Path,
    name: str,
    data: str,
    licence: str = LICENCE,
) -> str:
    """Write weights and card of a trained net.

    Args:
        trained: The net, with the record of its run.
        tests: Batches of test images and their labels, from `evaluation_pipeline`.
        output: The folder.
        name: Name of both files, less their endings.
        data: Name of the images on the card.
        licence: SPDX identifier of the weights' license, for the card.

    Returns:
        The card.
    """
    output.mkdir(parents=True, exist_ok=True)
    weights = output / f"{name}.weights.h5"
    save_half_precision(trained.model, weights)
    # As whoever uses the file builds the net: in float32, whatever the run computed in.
    recipe = Recipe(**trained.record["recipe"]).replace(dtype_policy="float32")
    class_names = trained.record["class_names"]
    model = build_net(recipe, len(class_names), weights=str(weights))
    result = evaluate(model, tests, class_names)
    card = _card(trained, weights, data, licence, result)
    with replacing(output / f"{name}.md") as partial:
        partial.write_text(card, encoding="utf-8")
    return card


def publish_for_hub(
    trained: Trained,
    tests: tf.data.Dataset,
    output: Path,
    name: str,
    data: str,
    licence: str = LICENCE,
) -> str:
    """Write the folder of a trained net that the Hugging Face Hub expects.

    Args:
        trained: The net, with the record of its run.
        tests: Batches of test images and their labels, from `evaluation_pipeline`.
        output: The folder in which it is written.
        name: Its name.
        data: Name of the images on the card.
        licence: SPDX identifier of the weights' license, for the card.

    Returns:
        The card.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        ValueError: If there is such a folder.
    """
    result = evaluate(trained.model, tests, trained.record["class_names"])
    metrics = {"accuracy": result.top1}
    if result.top5 is not None:
        metrics["top-5 accuracy"] = result.top5
    to_config_folder(
        trained.model,
        output / name,
        trained.preprocessing,
        class_names=result.class_names,
        metrics=metrics,
        dataset=data,
        licence=licence,
        training=f"{_trained_on(trained, data)}\n\n{_per_class(result)}\n\n{_training(trained)}",
    )
    return (output / name / "README.md").read_text(encoding="utf-8")


def _images(trained: Trained, options: argparse.Namespace) -> ImageSource:
    """Open the images of a net, which must have the classes that it was trained on."""
    if not trained.record:
        raise ValueError(
            f"a card tells how the net was trained, and there is no run.json beside {trained.file}"
        )
    source = options.data
    images = open_for(trained.record, source, options.data_dir, options.validation_split)
    if images.label_sets is not None:
        raise ValueError(
            f"a card is of a net that tells one class per image. Received: {source}, whose images "
            "have several labels; keras_preact.to_config_folder writes any net"
        )
    if list(images.class_names) != trained.record["class_names"]:
        raise ValueError(
            f"{source} has the classes {list(images.class_names)}. The net was trained on "
            f"{trained.record['class_names']}"
        )
    return images


def _card(trained: Trained, weights: Path, data: str, licence: str, result: Evaluation) -> str:
    model = trained.record["recipe"]["model"]
    count = trained.model.count_params()
    return f"""# {model}, {data}

- File: `{weights.name}`, {weights.stat().st_size:,} bytes, kernels in 16 bits, SHA-256
  `{hashlib.sha256(weights.read_bytes()).hexdigest()}`
- Net: `keras_preact.{model}`, {count:,} parameters, {len(result.class_names)} classes:
  {", ".join(result.class_names)}
- {_trained_on(trained, data)}
- Accuracy, evaluated from this file: {result.top1:.2%} of the {result.images:,} test images;
  {_percent(result.top5)} with the five likeliest classes
- Images: {_preprocessing(trained.preprocessing)}
- License: {licence}

{_per_class(result)}

## Training

{_training(trained)}
"""


def _trained_on(trained: Trained, data: str) -> str:
    epochs = ", then ".join(f"{run['history'][-1]['epoch']}" for run in _runs(trained))
    count = trained.record["images"]["train"]
    known, last = trained.metrics, trained.record["history"][-1]
    best = (
        f"; the weights are of epoch {known['epoch']}, the best"
        if known not in (None, last)
        else ""
    )
    return f"Trained on: the {count:,} training images of {data}, {epochs} epochs{best}"


def _per_class(result: Evaluation) -> str:
    rows = _rows({name: _percent(share) for name, share in result.per_class.items()})
    return f"| class | recognized |\n| --- | --- |\n{rows}"


def _training(trained: Trained) -> str:
    """Return the commands, the recipe and the versions of a net's training."""
    # As it is in the record: lists instead of tuples.
    default = json.loads(json.dumps(dataclasses.asdict(Recipe())))
    record, runs = trained.record, _runs(trained)
    changed = {key: value for key, value in record["recipe"].items() if default.get(key) != value}
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"""{_commands(runs)}

The recipe{" of the last" if len(runs) > 1 else ""}, less its defaults:

| value | |
| --- | --- |
{_rows({f"`{name}`": f"`{value}`" for name, value in changed.items()})}

Versions: {versions}."""


def _runs(trained: Trained) -> list[dict[str, Any]]:
    """Return the runs that led to a net, from the one with random or published weights on."""
    runs, folders = [trained.record], {trained.file.parent.resolve()}
    while (init := runs[0]["recipe"].get("init")) and (file := file_of(init)):
        folder = file.parent.resolve()
        # A folder that was written anew may name one that was trained from it.
        if folder in folders or not (earlier := read_record(folder)):
            break
        folders.add(folder)
        runs.insert(0, earlier)
    return runs


def _commands(runs: Sequence[dict[str, Any]]) -> str:
    return "\n".join(
        f"{number}. `{run['command']}`\n   on {', '.join(run['devices'])}, seed {run['seed']}"
        for number, run in enumerate(runs, 1)
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"


def _preprocessing(preprocessing: Preprocessing) -> str:
    size = preprocessing.input_size
    return (
        f"{size} x {size} pixels, scaled to 0..1, less {list(preprocessing.mean)}, divided by "
        f"{list(preprocessing.std)}"
    )


def _rows(cells: dict[str, str]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in cells.items())


def _run(options: argparse.Namespace) -> None:
    folder = options.output / options.name
    if options.push:
        repository(options.push)
    elif options.hub and folder.exists():
        raise FileExistsError(f"there must be no folder of that --name yet. Received: {folder}")
    trained = load_trained(options)
    if options.push and folder.exists():
        _check_written(trained, folder, options.data_name, options.licence)
        print(f"Written before: {folder}")
    else:
        images = _images(trained, options)
        recipe = recipe_of_tests(options, trained.preprocessing, trained.record)
        write = publish_for_hub if options.hub or options.push else publish
        values = (options.output, options.name, options.data_name, options.licence)
        with named(images):
            print(write(trained, evaluation_pipeline(images, recipe), *values))
    if options.push:
        print(push_to_hub(folder, options.push))


def _check_written(trained: Trained, folder: Path, data: str, licence: str) -> None:
    """Refuse to upload a folder unless it is what the command would write.

    Args:
        trained: The net.
        folder: Written by an earlier command.
        data: Name of the images on the card.
        licence: The license on the card.

    Raises:
        FileExistsError: If the folder differs in one of them.
    """
    card = library("--push").ModelCard.load(folder / "README.md").data
    differ = {
        f"images, {card.eval_results[0].dataset_name!r}": card.eval_results[0].dataset_name != data,
        f"license, {card.license}": card.license != licence,
        "preprocessing": Preprocessor(str(folder)).preprocessing != trained.preprocessing,
        f"weights than {trained.file}": not _equal(from_config_folder(folder), trained.model),
    }
    if others := [what for what, different in differ.items() if different]:
        raise FileExistsError(
            f"{folder} has other {', '.join(others)}: remove it, or give another --name"
        )


def _equal(one: keras.Model, other: keras.Model) -> bool:
    try:
        np.testing.assert_equal(named_weights(one), named_weights(other))
    except AssertionError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0, or 2 for a wrong argument.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.publish",
        description="Write a trained net's weights with 16-bit kernels, and a model card.",
        allow_abbrev=False,
    )
    add_trained_arguments(parser)
    parser.add_argument("--data", required=True, metavar="SOURCE", help="as for training.train")
    add_test_arguments(parser)
    parser.add_argument("--data-name", required=True, metavar="TEXT", help="what the card calls it")
    parser.add_argument("--name", required=True, help="of the files, less their endings")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder")
    parser.add_argument(
        "--hub", action="store_true", help="write a folder for the Hugging Face Hub instead"
    )
    parser.add_argument("--push", metavar="USER/REPO", help="upload that folder; implies --hub")
    parser.add_argument(
        "--licence", default=LICENCE, help=f"license of the weights (default: {LICENCE})"
    )
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"training.publish: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
