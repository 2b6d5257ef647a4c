"""Gradients at every unit while 56-layer nets learn, pre-activation and original.

    python -m benchmarks.gradient_history --data DATA/cifar-10-batches-bin --output FOLDER

It trains both on the same images, and writes the plot and a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np

from benchmarks.command import at_least, command_line
from benchmarks.gradient_flow import ORDERS
from benchmarks.loss_landscape import LOSS
from benchmarks.report import Report, table
from keras_preact.analysis import GradientHistory, draw_gradient_history
from training.compiling import compile_for_training
from training.data import training_pipeline
from training.net import prepare_net
from training.recipe import load_recipe
from training.sources import open_source

MODEL = "PreActResNet56"
MEASURED_IMAGES = 64


def main() -> None:
    """Train, measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="see training.train")
    parser.add_argument("--steps", type=at_least(1), default=300)
    parser.add_argument("--every", type=at_least(1), default=25, help="steps between measurements")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    report = Report(
        "Gradients while a net learns",
        command_line("benchmarks.gradient_history"),
        ("keras", "tensorflow"),
        options.output / "README.md",
    )
    source = open_source(options.data)
    histories, rows = {}, []
    for label, order in ORDERS.items():
        recipe = load_recipe("cifar_short").replace(
            model=MODEL, model_options={"order": order}, schedule="constant", warmup_epochs=0
        )
        keras.utils.set_random_seed(recipe.seed)
        model = compile_for_training(prepare_net(recipe, source.class_names), recipe, options.steps)
        batches = training_pipeline(source, recipe)
        images, labels = next(iter(batches.as_numpy_iterator()))
        few = slice(MEASURED_IMAGES)
        histories[label] = GradientHistory(images[few], labels[few], options.every, LOSS)
        fitted = model.fit(
            batches, steps_per_epoch=options.steps, verbose=2, callbacks=[histories[label]]
        )
        rows.append(_row(label, histories[label], fitted.history["loss"][-1]))
    draw_gradient_history(options.output / "gradients.png", histories, "56 layers, CIFAR-10")
    header = ("units", "mean loss", "ratio at the start", "median ratio", "largest ratio")
    report.write(
        f"{table(header, rows)}\n\nNorm of the loss's gradient at the first unit's input over that "
        f"at the last's, on {MEASURED_IMAGES} training images, every {options.every} of "
        f"{options.steps} steps of SGD at a constant rate.\n\n![Gradients](gradients.png)"
    )


def _row(label: str, history: GradientHistory, loss: float) -> tuple[str, ...]:
    ratios = history.inputs[:, 0] / history.inputs[:, -1]
    figures = (ratios[0], np.median(ratios), ratios.max())
    return label, f"{loss:.3f}", *(f"{each:.3g}" for each in figures)


if __name__ == "__main__":
    main()
