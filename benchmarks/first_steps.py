"""The first training steps of the 1001-layer net on real images: loss and learning rate.

    python -m benchmarks.first_steps --data DATA/cifar-10-batches-bin --output FOLDER

Where a whole schedule would take days, this shows that the net trains: batches of the recipe's own
pipeline, its optimizer and its warm-up, and a loss that falls. Every value of the recipe is an
option, as for `training.train`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from benchmarks.command import at_least, command_line, failed
from benchmarks.report import Report, table
from keras_preact.files import read_json, replacing, write_json
from training.compiling import compile_for_training
from training.data import training_pipeline
from training.net import build_net
from training.recipe import (
    Recipe,
    add_recipe_arguments,
    differences,
    load_recipe,
    override_recipe,
    steps_per_epoch,
)
from training.records.report import write_history_csv
from training.sources import open_source

# Steps that one line of the table averages over.
WINDOW = 20


def paper_recipe() -> Recipe:
    """Return the paper's CIFAR schedule for 1001 layers, rates unscaled, with a warm-up at 0.01."""
    return load_recipe("cifar_paper").replace(
        model="PreActResNet1001", batch_size=32, reference_batch_size=0
    )


def train(data: str, recipe: Recipe, steps: int, csv_path: Path) -> list[dict[str, Any]]:
    """Train for some steps, and write a line of the CSV file after each.

    Args:
        data: Source of the images, as for `training.train`.
        recipe: The recipe to train.
        steps: How many steps.
        csv_path: The CSV file.

    Returns:
        A record for each step.
    """
    keras.utils.set_random_seed(recipe.seed)
    source = open_source(data)
    net = build_net(recipe, len(source.class_names))
    net = compile_for_training(net, recipe, steps_per_epoch(source, recipe))
    batches = itertools.islice(iter(training_pipeline(source, recipe)), steps)
    records: list[dict[str, Any]] = []
    for step, (images, labels) in enumerate(batches, 1):
        start = time.perf_counter()
        rate = float(keras.ops.convert_to_numpy(net.optimizer.learning_rate))
        net.reset_metrics()
        logs = net.train_on_batch(images, labels, return_dict=True)
        records.append(
            {
                "step": step,
                "loss": float(logs["loss"]),
                "top1": float(logs["top1"]),
                "learning_rate": rate,
                "seconds": round(time.perf_counter() - start, 2),
            }
        )
        write_history_csv(csv_path, records)
        print(records[-1], flush=True)
    return records


def recorded(csv_path: Path, description: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the records of an earlier run, even of one that was stopped on the way.

    Args:
        csv_path: The CSV file. The description is a JSON file beside it, which is written if there
            are no records yet.
        description: Of this run.

    Returns:
        The records.

    Raises:
        ValueError: If they are of another run.
    """
    described = csv_path.with_suffix(".json")
    if not csv_path.exists():
        write_json(described, description)
        return []
    if not described.exists():
        # Earlier versions wrote none.
        print(f"{csv_path} has no {described.name} beside it: are its steps of these values?")
    elif changes := differences(read_json(described), description):
        raise ValueError(
            f"{csv_path} is of another run. Give another --output, or the same values:\n  "
            + "\n  ".join(changes)
        )
    with open(csv_path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: int(value) if name == "step" else float(value) for name, value in row.items()}
        for row in rows
    ]


def draw(records: list[dict], title: str, path: Path) -> None:
    """Draw the loss of every step, its moving mean, and what guessing would give."""
    steps = [record["step"] for record in records]
    losses = np.array([record["loss"] for record in records])
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, losses, color="#bbbbbb", label="each step")
    if len(losses) >= WINDOW:
        mean = np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")
        axis.plot(steps[WINDOW - 1 :], mean, color="#0b6fb8", label=f"mean of {WINDOW} steps")
    axis.axhline(np.log(10), color="#888888", linestyle=":", label="guessing, ln 10")
    axis.set(title=title, xlabel="step", ylabel="training loss")
    axis.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="png")


def parse_arguments() -> tuple[argparse.Namespace, Recipe]:
    """Return the options, and the recipe with those of the recipe applied."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="source of the images")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        default=100,
        help="where the output folder holds as many already, they are only drawn again",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_recipe_arguments(parser, paper_recipe())
    options = parser.parse_args()
    return options, override_recipe(paper_recipe(), options)


def records_of(options: argparse.Namespace, recipe: Recipe) -> list[dict[str, Any]]:
    """Read the records of the steps, or train.

    Raises:
        ValueError: If the output folder holds those of another run.
    """
    csv_path = options.output / "steps.csv"
    values = {"data": Path(options.data).name, **dataclasses.asdict(recipe)}
    # As it will be read back: lists instead of tuples.
    records = recorded(csv_path, json.loads(json.dumps(values)))[: options.steps]
    if len(records) < options.steps:
        return train(options.data, recipe, options.steps, csv_path)
    return records


def main() -> int:
    """Train, print and write the table and the plot; return the exit status."""
    try:
        options, recipe = parse_arguments()
        title = f"{recipe.model}, the first {options.steps} steps of {recipe.batch_size} images"
        command = command_line("benchmarks.first_steps")
        output = options.output / "README.md"
        report = Report(title, command, ("keras", "tensorflow"), output)
        records = records_of(options, recipe)
    except (ValueError, OSError) as error:
        return failed("benchmarks.first_steps", error)
    draw(records, title, options.output / "loss.png")
    rows = []
    for start in range(0, len(records), WINDOW):
        part = records[start : start + WINDOW]
        means = [np.mean([record[name] for record in part]) for name in ("loss", "top1")]
        seconds = f"{np.median([record['seconds'] for record in part]):.1f}"
        span = f"{part[0]['step']} to {part[-1]['step']}"
        rows.append((span, f"{means[0]:.3f}", f"{means[1]:.1%}", seconds))
    report.write(
        f"{table(('steps', 'training loss', 'training top-1', 'seconds per step'), rows)}\n\n"
        "Means over the steps (median of the seconds). This is the beginning of the paper's "
        "schedule, no trained net.\n\n![Training loss](loss.png)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
