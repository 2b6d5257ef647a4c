r"""Which cheap measure of a net ranks nets as full trainings do.

    python -m training.tune --recipe cifar_ablation --model PreActResNet20 --model-options \
        "units=[3, 3, 3]" "channels=[16, 32, 64]" stem_channels=16 "strides=[2, 2, 2]" \
        --epochs 9 --epoch-steps 100 --oracle random --max-trials 24 --max-flops 10595328 \
        --space benchmarks/rank_shapes.toml --validation-split 0.1 --threads 1 \
        --data DATA/cifar-10-batches-bin --output runs/rank
    python -m benchmarks.rank_rungs --search runs/rank --data DATA/cifar-10-batches-bin

The first command trains nets of one cost to the end, each in the same number of epochs. The second
scores the nets by measures that need a part of the training, or none, and prints Kendall's tau, the
rank correlation, between each and the accuracy at the end, with its interval over bootstrapped
nets; and what remains of the best nets where the worse half by the measure is left out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy.stats import kendalltau

from benchmarks.command import command_line
from benchmarks.report import Report, table
from training.data import training_pipeline
from training.net import build_net
from training.recipe import Recipe, load_recipe
from training.search.ranking import leaderboard
from training.search.trials import Record, SearchFolder
from training.sources import open_source

BOOTSTRAPS = 2000
# Orders of nets with equal values, over which the mean is taken.
ORDERS = 1000
# Images whose activations are compared; their number is the rank of NASWOT's matrix.
IMAGES = 64
# Relative step of the derivative along the weights; float64 leaves 8 digits of it.
STEP = 1e-6


def naswot(recipe: Recipe, classes: int, images: np.ndarray) -> float:
    """Score a net by how unlike the images' patterns of active ReLUs are (arXiv:2006.04647).

    Args:
        recipe: Of the net, which is new.
        classes: Number of classes.
        images: `(batch, height, width, channels)`, float32.

    Returns:
        The logarithm of the determinant of the matrix that counts, for each pair of images, the
        ReLUs in the same state.
    """
    keras.utils.set_random_seed(0)
    net = build_net(recipe.replace(dtype_policy="float32"), classes, scan_units=False)
    relus = [layer.output for layer in net.layers if isinstance(layer, keras.layers.Activation)]
    patterns = keras.Model(net.inputs, relus)(images, training=True)
    matrix = np.zeros((len(images), len(images)))
    for pattern in patterns:
        active = np.reshape(np.asarray(pattern) > 0, (len(images), -1)).astype("float32")
        matrix += active @ active.T + (1 - active) @ (1 - active).T
    return float(np.linalg.slogdet(matrix)[1])


def synflow(recipe: Recipe, classes: int, images: np.ndarray) -> float:
    """Score a net by the flow through the magnitudes of its weights (arXiv:2006.05467).

    The score of a weight is its magnitude times the derivative by it of the sum R of the scores of
    an image of ones, all weights being positive; the net's is the sum over its weights, which is
    the derivative of R as all weights grow in proportion.

    Args:
        recipe: Of the net, which is new.
        classes: Number of classes.
        images: Of the shape of the input; their pixels do not count.

    Returns:
        The logarithm of the score.
    """
    keras.utils.set_random_seed(0)
    options = {"dtype": "float64", "classifier_activation": None, "scan_units": False}
    net = build_net(recipe, classes, **options)
    kernels = [each for each in net.trainable_variables if each.name == "kernel"]
    magnitudes = [np.abs(np.asarray(each)) for each in kernels]

    def flow(scale: float) -> float:
        for kernel, magnitude in zip(kernels, magnitudes, strict=True):
            kernel.assign(scale * magnitude)
        return float(np.sum(np.asarray(net(np.ones_like(images[:1], "float64")))))

    return math.log((flow(1 + STEP) - flow(1 - STEP)) / (2 * STEP))


def extrapolated(history: Sequence[dict[str, Any]], epochs: int) -> float:
    """Continue the loss of the first epochs as a line, to the end.

    Args:
        history: Records of the epochs.
        epochs: How many of them are known.

    Returns:
        The negative of the loss at the end.
    """
    known = [each["val_loss"] for each in history[:epochs]]
    slope, start = np.polyfit(np.log(np.arange(1, epochs + 1)), known, 1)
    return -float(start + slope * math.log(len(history)))


def measures(
    folder: SearchFolder, records: Sequence[Record], images: np.ndarray, classes: int
) -> dict[str, list[float]]:
    """Return the measures of all nets, by name; more is better."""
    histories = [folder.history(record) for record in records]
    recipes = [load_recipe(folder.recipe(record.trial)) for record in records]
    epochs = len(histories[0])
    found: dict[str, list[float]] = {
        "parameters": [float(record.parameters) for record in records],
        "units": [float(sum(each.model_options["units"])) for each in recipes],
    }
    scores: dict[str, Callable[[Recipe, int, np.ndarray], float]] = {
        "NASWOT": naswot,
        "synflow": synflow,
    }
    for name, score in scores.items():
        found[name] = [score(recipe, classes, images) for recipe in recipes]
    for part in sorted({max(1, epochs // 9), max(1, epochs // 3), max(2, 2 * epochs // 3)}):
        last = [each[part - 1] for each in histories]
        found[f"accuracy after {part} of {epochs} epochs"] = [each["val_top1"] for each in last]
        # The training speed of arXiv:2006.04492, over the last of the epochs.
        found[f"accuracy of the training in epoch {part}"] = [each["top1"] for each in last]
        found[f"loss of the training in epoch {part}"] = [-each["loss"] for each in last]
        if part > 1:
            found[f"loss after {part} epochs, extrapolated"] = [
                extrapolated(each, part) for each in histories
            ]
    return found


def row(name: str, measure: Sequence[float], final: Sequence[float]) -> list[str]:
    """Return the row of a measure: tau, its interval, and the best nets that it keeps.

    Args:
        name: Of the measure.
        measure: Its value for each net; more is better.
        final: Accuracy of each net at the end.
    """
    values, truth = np.array(measure), np.array(final)
    random = np.random.default_rng(0)
    draws = random.integers(len(truth), size=(BOOTSTRAPS, len(truth)))
    taus = [kendalltau(values[draw], truth[draw]).statistic for draw in draws]
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    best = np.argsort(-truth)[:3]
    # Chance orders the nets of which the measure says the same: that they come best first is not
    # its merit.
    orders = [np.lexsort((chance, -values)) for chance in random.random((ORDERS, len(values)))]
    halves = [order[: (len(values) + 1) // 2] for order in orders]
    kept = np.mean([np.isin(best, half).sum() for half in halves])
    lost = truth.max() - np.mean([truth[half].max() for half in halves])
    tau = kendalltau(values, truth).statistic
    return [
        *(name, f"{tau:.2f}", f"{low:.2f} to {high:.2f}"),
        *(f"{kept:.2g} of 3", f"{100 * lost:.1f}"),
    ]


def main() -> None:
    """Score the nets of a search, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--search", type=Path, required=True, metavar="DIR", help="of the search")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="its images")
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    folder = SearchFolder(options.search)
    records = leaderboard(folder.records(), "val_top1")
    report = Report(
        f"Rank correlation with full training: {len(records)} nets of one cost",
        command_line("benchmarks.rank_rungs"),
        ("keras", "keras-tuner", "tensorflow"),
        options.output,
    )
    description = json.loads(folder.description.read_text(encoding="utf-8"))
    recipe = Recipe(**description["recipe"]).replace(batch_size=IMAGES)
    source = open_source(options.data, None, description["validation_split"])
    images, *_ = next(training_pipeline(source, recipe).as_numpy_iterator())
    final = [record.results["val_top1"] for record in records]
    found = measures(folder, records, images, len(source.class_names))
    header = ["measure", "tau", "95% of bootstraps", "best nets in its better half", "points lost"]
    body = table(header, [row(name, values, final) for name, values in found.items()])
    span = f"{min(final):.2%} to {max(final):.2%}"
    report.write(f"Accuracy at the end, on images held out: {span}.\n\n{body}")


if __name__ == "__main__":
    main()
