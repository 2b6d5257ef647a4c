"""Trained nets with units deleted and moved, and their gradients along paths (arXiv:1605.06431).

    python -m benchmarks.effective_depth --data DATA/cifar-10-batches-bin --output FOLDER

It takes the weights that ship with the package, and writes the plots and a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import keras_preact
from benchmarks.command import command_line
from benchmarks.loss_landscape import LOSS, images_of
from benchmarks.report import Report, table
from keras_preact.analysis import (
    LesionStudy,
    PathGradients,
    draw_lesion_study,
    draw_path_gradients,
    lesion_study,
    path_gradients,
)
from keras_preact.preprocessing import CIFAR10
from training.recipe import recipe_for

NETS = ("PreActResNet20", "PreActResNet164")
HEADER = ("net", "units", "error", "median without one unit", "worst", "effective depth")


def row(name: str, study: LesionStudy, paths: PathGradients) -> tuple[str, ...]:
    """Format the table row of a net."""
    errors = (study.error, np.median(study.without), study.without.max())
    return (
        *(name, str(paths.lengths.max())),
        *(f"{each:.1%}" for each in errors),
        f"{paths.effective_depth:.1f}",
    )


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="see training.train")
    parser.add_argument("--images", type=int, default=1000, help="of the test set, for lesions")
    parser.add_argument("--gradient-images", type=int, default=32, help="of these, for gradients")
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    report = Report(
        "Lesions and effective depth",
        command_line("benchmarks.effective_depth"),
        ("keras", "tensorflow"),
        options.output / "README.md",
    )
    studies, paths = {}, {}
    for name in options.nets:
        model = keras_preact.BUILDERS[name](weights="cifar10")
        images, labels = images_of(options.data, recipe_for(CIFAR10), "test", options.images)
        studies[name] = lesion_study(
            model,
            images,
            labels.argmax(axis=-1),
            counts=(1, 2, 3, 4, 6),
            progress=lambda done, total, name=name: print(f"{name}: {done}/{total}", flush=True),
        )
        few = slice(options.gradient_images)
        paths[name] = path_gradients(model, images[few], labels[few], LOSS, samples=5)
    draw_lesion_study(options.output / "lesions.png", studies, "CIFAR-10")
    draw_path_gradients(options.output / "paths.png", paths, "CIFAR-10")
    rows = [row(name, studies[name], paths[name]) for name in options.nets]
    body = (
        f"{table(HEADER, rows)}\n\nErrors over {options.images} test images: of the whole net, "
        "with each unit deleted that keeps the shape of its maps, and (in the plot) with several "
        "deleted or exchanged, 5 draws each. Effective depth: mean number of residual branches on "
        "a path, each path counting by the norm of the gradient that comes back along it, over "
        f"{options.gradient_images} images, 5 paths of each length.\n\n"
        "![Lesions](lesions.png)\n\n![Paths](paths.png)"
    )
    report.write(body)


if __name__ == "__main__":
    main()
