"""Calibration of the probabilities of a net (arXiv:1706.04599)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.spec.rules import POSITIVE_INTEGER
from keras_preact.tensor import Tensor

# The temperature is searched from 1 over this number to this number.
_LARGEST_TEMPERATURE = 1000.0


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy, in bins of equal width of the confidence.

    Attributes:
        edges: `(bins + 1,)`: edges of the bins, from 0 to 1.
        counts: `(bins,)`: images per bin.
        confidences: `(bins,)`: mean probability of the predicted class; NaN where a bin is empty.
        accuracies: `(bins,)`: share of right predictions; NaN where a bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """Return confidence less accuracy, `(bins,)`; 0 where a bin is empty."""
        return np.nan_to_num(self.confidences - self.accuracies)

    @property
    def expected_error(self) -> float:
        """Return the expected calibration error: the mean absolute gap, over the images."""
        return float(np.abs(self.gaps) @ self.counts / self.counts.sum())

    @property
    def maximum_error(self) -> float:
        """Return the largest gap of a bin."""
        return float(np.abs(self.gaps).max())


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Compare a net's confidence with its accuracy.

    Args:
        probabilities: `(images, classes)`, as a net gives them; each row sums to 1, but for
            rounding to their dtype.
        labels: `(images,)`: numbers of the true classes.
        bins: Number of bins; 15 as in the paper.

    Returns:
        The bins.

    Raises:
        ValueError: If the shapes do not fit, rows are no probabilities, or labels no classes.
    """
    tolerance = _tolerance(probabilities)
    probabilities, labels = _checked(probabilities, labels)
    bins = POSITIVE_INTEGER.check("bins", bins)
    sums = probabilities.sum(axis=1)
    if not (probabilities.min() >= 0 and np.abs(sums - 1).max() <= tolerance):
        raise ValueError(
            "`probabilities` must be 0 or more and sum to 1 in every row. Received rows that sum "
            f"to {sums.min():.4g} … {sums.max():.4g}, the least value {probabilities.min():.4g}"
        )
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    # A bin holds its upper edge, as in the paper, and the first its lower one too.
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(places, confidence, bins) / counts
        accuracies = np.bincount(places, right, bins) / counts
    return Reliability(edges, counts, confidences, accuracies)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature that makes a net's probabilities fit best.

    `softmax(logits / temperature)` has the least cross-entropy, while the predicted classes stay.
    Fit it on images that the net was not trained on.

    Args:
        logits: `(images, classes)`: scores before the softmax; the logarithms of probabilities
            serve as well.
        labels: `(images,)`: numbers of the true classes.

    Returns:
        The temperature: above 1 where the net is too sure of itself.

    Raises:
        ValueError: If the shapes do not fit, scores are not numbers, a true class has probability
            0, or the labels ask for a temperature of 0 or of infinity, as where every prediction is
            right.
    """
    logits, labels = _checked(logits, labels)
    largest = logits.max(axis=1, keepdims=True)
    true = np.take_along_axis(logits, labels[:, np.newaxis], axis=1)
    if infinite := int((~np.isfinite(largest) | ~np.isfinite(true)).sum()):
        raise ValueError(
            "No temperature makes the loss finite where the true class has probability 0. Give the "
            "scores before the softmax, or clip the probabilities. Received: infinite scores for "
            f"{infinite} of {len(logits)} images"
        )
    logits, true = logits - largest, (true - largest)[:, 0]

    def slope(inverse: float) -> float:
        """Return the slope of the mean cross-entropy over the inverse temperature; it rises."""
        weights = np.exp(inverse * logits)
        products = np.multiply(weights, logits, where=weights > 0, out=np.zeros_like(logits))
        expected = products.sum(axis=1) / weights.sum(axis=1)
        return float((expected - true).mean())

    low, high = 1 / _LARGEST_TEMPERATURE, _LARGEST_TEMPERATURE
    if not slope(low) < 0 < slope(high):
        raise ValueError(
            f"No temperature between {low:g} and {high:g} fits best: the predictions are all "
            "right, or no better than chance."
        )
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / middle


def draw_reliability(
    path: str | os.PathLike, measured: Mapping[str, Reliability], title: str = ""
) -> None:
    """Draw reliability diagrams side by side: accuracy over confidence, and how many images.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        measured: By label, the bins.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(4.2 * len(measured), 5), layout="constrained")
    figure.suptitle(plain(title))
    panels = figure.subplots(2, len(measured), height_ratios=(3, 1), sharex=True, squeeze=False)
    for (above, below), (label, each) in zip(panels.T, measured.items(), strict=True):
        centers = (each.edges[1:] + each.edges[:-1]) / 2
        width = each.edges[1] - each.edges[0]
        above.bar(centers, each.accuracies, width, color="#0b6fb8", edgecolor="white")
        above.bar(centers, each.gaps, width, each.accuracies, color="#b8560b", alpha=0.4)
        above.plot([0, 1], [0, 1], "--", color="#888888")
        above.set_title(f"{plain(label)}: expected error {each.expected_error:.2%}", fontsize=10)
        above.set_ylabel("accuracy (orange: gap to confidence)")
        below.bar(centers, each.counts, width, color="#888888", edgecolor="white")
        below.set_ylabel("images")
        below.set_xlabel("confidence")
    save_figure(figure, path)


def _tolerance(probabilities: Tensor) -> float:
    """Return how far from 1 rounding may take the sum of a row."""
    # Numbers below 1 have steps of 0.004 in bfloat16, and a softmax rounds its own sum as well.
    return 1e-2 if np.asarray(probabilities).dtype.itemsize == 2 else 1e-3


def _checked(scores: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores, "float64"), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            "Scores must be of the shape `(images, classes)` and labels of `(images,)`. "
            f"Received: {scores.shape} and {labels.shape}"
        )
    if wrong := int(np.isnan(scores).any(axis=1).sum()):
        raise ValueError(
            f"Scores must be numbers. Received: NaN for {wrong} of {len(scores)} images"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"`labels` must be whole numbers from 0 to {scores.shape[1] - 1}. "
            f"Received: {labels.dtype}, {labels.min()} … {labels.max()}"
        )
    return scores, labels
