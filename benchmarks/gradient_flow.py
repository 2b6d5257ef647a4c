"""Gradients at every unit of untrained nets of 20 to 1001 layers, pre-activation and original.

`python -m benchmarks.gradient_flow --output benchmarks/results/gradient_flow` writes the plots
and a table. The images are random: what is seen is what the units do to gradients.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import keras
import numpy as np

import keras_preact
from benchmarks.command import command_line
from benchmarks.report import Report, table
from keras_preact.analysis import (
    GradientFlow,
    SignalPropagation,
    draw_gradient_flow,
    draw_signal_propagation,
    gradient_flow,
    signal_propagation,
)
from keras_preact.files import replacing

DEPTHS = (20, 164, 1001)
ORDERS = {"pre-activation": "full_preactivation", "original": "original"}
BATCH_SIZE = 32


def measure(depth: int, seed: int) -> tuple[dict[str, GradientFlow], dict[str, SignalPropagation]]:
    """Measure both kinds of net, on the same images.

    Args:
        depth: Layers, one of the published CIFAR nets.
        seed: Of the weights and the images.

    Returns:
        Gradients and signals, by the kind of net.
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((BATCH_SIZE, 32, 32, 3)).astype("float32")
    labels = rng.integers(10, size=BATCH_SIZE)
    flows, signals = {}, {}
    for label, order in ORDERS.items():
        keras.utils.set_random_seed(seed)
        model = keras_preact.BUILDERS[f"PreActResNet{depth}"](order=order)
        flows[label] = gradient_flow(model, images, labels)
        signals[label] = signal_propagation(model, images)
    return flows, signals


HEADER = ("layers", "units", "first unit", "last unit", "ratio", "shortcut's share")


def rows(depth: int, flows: dict[str, GradientFlow]) -> list[tuple[str, ...]]:
    """Format one table row per net: first and last unit, and the share of shortcuts."""
    made = []
    for label, flow in flows.items():
        first, last = flow.inputs[0], flow.inputs[-1]
        share = np.median(flow.shortcuts / (flow.shortcuts + flow.branches))
        figures = (f"{each:.3g}" for each in (first, last, first / last, share))
        made.append((str(depth), label, *figures))
    return made


def write_csv(path: Path, measured: dict[int, dict[str, GradientFlow]]) -> None:
    """Write every norm, one line per unit."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["layers", "net", "unit", "input", "shortcut", "branch"])
        for depth, flows in measured.items():
            for label, flow in flows.items():
                norms = (flow.inputs, flow.shortcuts, flow.branches)
                for name, *values in zip(flow.units, *norms, strict=True):
                    writer.writerow([depth, label, name, *(f"{each:.6g}" for each in values)])


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    report = Report(
        "Gradients, unit by unit",
        command_line("benchmarks.gradient_flow"),
        ("keras", keras.backend.backend(), "numpy"),
        options.output / "README.md",
    )
    measured, table_rows = {}, []
    for depth in options.depths:
        flows, signals = measure(depth, options.seed)
        measured[depth] = flows
        title = f"{depth} layers, untrained"
        draw_gradient_flow(options.output / f"gradients_{depth}.png", flows, title)
        draw_signal_propagation(options.output / f"signals_{depth}.png", signals, title)
        table_rows += rows(depth, flows)
        print(f"{depth} layers done", flush=True)
    write_csv(options.output / "gradients.csv", measured)
    report.write(
        f"Norm of the loss's gradient at the input of the first and of the last unit, {BATCH_SIZE} "
        "random images, He initialization, norms on the batch's statistics; and the median over "
        "the units of the part that comes back through the shortcut, as a share of both parts' "
        f"norms.\n\n{table(HEADER, table_rows)}\n\n"
        + "\n".join(f"![{depth} layers](gradients_{depth}.png)" for depth in options.depths)
    )


if __name__ == "__main__":
    main()
