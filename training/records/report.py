"""The history of a run as a table and as curves."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_preact.analysis.pictures.figures import plain
from keras_preact.files import replacing

# What the best epoch is chosen by.
_TITLES = {"top1": "top-1 accuracy", "mAP": "mean average precision"}
_TRAIN, _VALIDATION, _RATE = "#888888", "#0b6fb8", "#b8560b"


def write_history_csv(path: str | os.PathLike, history: list[dict[str, Any]]) -> None:
    """Write one line for each epoch.

    Args:
        path: The file.
        history: Records of the epochs. A value that an epoch lacks is left empty.
    """
    names = dict.fromkeys(name for record in history for name in record)
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(history)


def draw_curves(path: str | os.PathLike, history: list[dict[str, Any]], title: str) -> None:
    """Draw loss, learning rate, and top-1 accuracy or mean average precision over the epochs.

    Args:
        path: The PNG file.
        history: Records of the epochs.
        title: Title of the plots.
    """
    figure = Figure(figsize=(13, 4.2), dpi=110, layout="constrained")
    figure.suptitle(plain(title))
    loss, measured, rate = figure.subplots(1, 3)
    epochs = [record["epoch"] for record in history]
    metric = next(name for name in _TITLES if f"val_{name}" in history[0])
    best = max(history, key=lambda record: record[f"val_{metric}"])
    _draw_pair(loss, "loss", history, "test")
    _draw_pair(measured, metric, history, f"test, last {history[-1][f'val_{metric}']:.2%}")
    measured.set_ylabel(_TITLES[metric])
    measured.plot(
        best["epoch"],
        best[f"val_{metric}"],
        "o",
        color=_VALIDATION,
        label=f"best {best[f'val_{metric}']:.2%}, epoch {best['epoch']}",
    )
    measured.legend()
    rates = [record["learning_rate"] for record in history]
    rate.plot(epochs, rates, color=_RATE, marker=_marker(history))
    rate.set_ylabel("learning rate (end of epoch)")
    rate.set_ylim(bottom=0)
    for axes in (loss, measured, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def _draw_pair(axes: Axes, key: str, history: list[dict[str, Any]], test_label: str) -> None:
    epochs = [record["epoch"] for record in history]
    for name, color, label in (
        (key, _TRAIN, "training"),
        (f"val_{key}", _VALIDATION, test_label),
    ):
        # Of labels only the test images have a metric.
        if name not in history[0]:
            continue
        values = [record[name] for record in history]
        axes.plot(epochs, values, color=color, label=label, marker=_marker(history))
    axes.set_ylabel(key)
    axes.legend()


def _marker(history: list[dict[str, Any]]) -> str:
    # A line through a single point is invisible.
    return "." if len(history) < 30 else ""


def draw_confusion(
    path: str | os.PathLike, confusion: np.ndarray, class_names: Sequence[str]
) -> None:
    """Draw a confusion matrix, each row as shares of its class.

    Args:
        path: The PNG file.
        confusion: Counts `(classes, classes)` by true class (row) and predicted class (column).
        class_names: Name of each class. Up to 40 are written out; beyond that, numbers.
    """
    classes = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    named = classes <= 40
    size = 3 + 0.45 * classes if named else 11
    figure = Figure(figsize=(size + 1, size), dpi=110, layout="constrained")
    axes = figure.subplots()
    # Mistakes are rare next to hits: a power of the share makes them visible; so does a dark
    # ground where a cell is a single pixel.
    cmap, gamma = ("Blues", 0.5) if named else ("inferno", 0.3)
    image = axes.imshow(shares, cmap=cmap, norm=PowerNorm(gamma, 0, 1), interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"top-1 accuracy {np.trace(confusion) / confusion.sum():.2%}")
    if named:
        names = [plain(name) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    if classes <= 20:
        for row, column in np.argwhere(confusion):
            dark = shares[row, column] > 0.4
            axes.text(
                column,
                row,
                str(confusion[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)
