"""The loss around the weights of 56-layer nets, pre-activation and original (arXiv:1712.09913).

    python -m benchmarks.loss_landscape --data DATA/cifar-10-batches-bin --output FOLDER

It trains both as `training.reproduce` does in its size `cpu`, in the same folders, and writes plots
and a table. Nets that are trained, and rows of a plane that are measured, are only read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import keras
import numpy as np

from benchmarks.command import at_least, command_line, failed
from benchmarks.report import Report, table
from keras_preact.analysis import (
    draw_loss_landscape,
    filter_normalized_direction,
    loss_landscape,
    sharpness,
)
from training.data import evaluation_pipeline
from training.recipe import Recipe, load_recipe
from training.reproduce import SIZES, TABLES, Row, train_rows
from training.run import read_run
from training.sources import open_source

SIZE = "cpu"
ORDERS = ("original", "full_preactivation")
LOSS = "categorical_crossentropy"
# A plane from -1 to 1 along each direction: at 1 the net's filters have moved by their own size.
POINTS = 21
SEEDS = (1, 2)
# "Far" in the table: this far from the net.
RADIUS = 0.5


def images_of(data: str, recipe: Recipe, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of a set, evenly spaced, as a trained net sees them.

    Args:
        data: As `--data` of `training.train`.
        recipe: Gives the preprocessing.
        split: `"train"` or `"test"`.
        count: How many.

    Returns:
        Images `(count, height, width, channels)` and one-hot labels `(count, classes)`, float32.
    """
    source = open_source(data)
    images = evaluation_pipeline(source, recipe, split).unbatch()
    chosen = images.shard(source.num_examples(split) // count, 0).batch(count)
    return next(chosen.as_numpy_iterator())


def measure(
    row: Row, run: Path, output: Path, images: np.ndarray, labels: np.ndarray
) -> tuple[str, ...]:
    """Measure and draw one net's plane.

    Args:
        row: The net.
        run: Folder of its training.
        output: Folder for the plot.
        images: Images to compute the loss of, `(images, height, width, channels)`.
        labels: Their labels, `(images, classes)`.

    Returns:
        The net's row of the table.
    """
    model = keras.saving.load_model(run / "model.keras")
    landscape = loss_landscape(
        model,
        images,
        labels,
        [filter_normalized_direction(model, seed) for seed in SEEDS],
        np.linspace(-1, 1, POINTS),
        LOSS,
        batch_size=len(images),
        path=run / "landscape.npz",
        progress=lambda done, rows: print(f"{row.label}: {done}/{rows} rows", flush=True),
    )
    draw_loss_landscape(
        output / f"{row.options['order']}.png", landscape, f"{row.label}, 56 layers"
    )
    first, second = np.meshgrid(landscape.coordinates, landscape.coordinates, indexing="ij")
    far = np.hypot(first, second) > RADIUS
    top = sharpness(model, images[:256], labels[:256], LOSS)
    error = 1 - read_run(run)["history"][-1]["val_top1"]
    middle = landscape.losses[POINTS // 2, POINTS // 2]
    return (
        *(row.label, f"{error:.2%}", f"{middle:.3f}"),
        *(f"{np.median(landscape.losses[part]):.3g}" for part in (~far, far)),
        f"{top.eigenvalue:.3g} ({top.iterations} iterations)",
    )


HEADER = ("net", "test error", "loss", "median within 0.5", "beyond", "largest eigenvalue")


def main() -> int:
    """Train, measure, draw and print; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="see training.train")
    parser.add_argument("--images", type=at_least(1), default=512)
    parser.add_argument("--processes", type=at_least(1), default=1, help="trainings at a time")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/reproduce"),
        help="as of training.reproduce (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    command = command_line("benchmarks.loss_landscape")
    output = options.output / "README.md"
    report = Report("Loss landscapes", command, ("keras", "tensorflow"), output)
    rows = [row for row in TABLES["orders"].rows if row.options["order"] in ORDERS]
    runs = options.runs / SIZE
    try:
        train_rows(rows, SIZES[SIZE], options.data, 1, runs, options.processes)
    except (ValueError, RuntimeError, OSError) as error:
        return failed("benchmarks.loss_landscape", error)
    recipe = load_recipe(SIZES[SIZE].recipe)
    images, labels = images_of(options.data, recipe, "train", options.images)
    table_rows = [
        measure(row, runs / f"{row.folder}-seed0", options.output, images, labels) for row in rows
    ]
    report.write(
        f"Mean loss over {options.images} training images, on a plane of {POINTS} by {POINTS} "
        "points through the trained weights along two filter-normalized random directions, norms "
        "on their moving statistics; medians over the points of the plane; the largest eigenvalue "
        "of the Hessian over 256 of the images.\n\n"
        f"{table(HEADER, table_rows)}\n\n"
        + "\n".join(f"![{row.label}]({row.options['order']}.png)" for row in rows)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
