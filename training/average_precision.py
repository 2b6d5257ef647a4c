"""Average precision of scores, and its mean over labels."""

from __future__ import annotations

import numpy as np


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the average precision of the scores of one label.

    It is the sum over the distinct scores, from the highest, of the precision among the images with
    that score or a higher one, times the share of the positive images that have that very score:
    `sum((recall[n] - recall[n - 1]) * precision[n])`, without interpolation, as scikit-learn's
    `average_precision_score` has it. Images of equal scores count together, in whatever order they
    come.

    Args:
        scores: `(images,)`, the higher the more likely.
        positive: `(images,)`: whether an image has the label.

    Returns:
        The average precision in 0..1; None if no image has the label.
    """
    positive = positive.astype(bool)
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits = np.cumsum(positive[order])
    # The last image of each score.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    precision = hits[ends] / (ends + 1)
    return float(np.sum(np.diff(hits[ends], prepend=0) * precision) / hits[-1])


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> list[float | None]:
    """Return the average precision of each label.

    Args:
        scores: `(images, labels)`.
        targets: `(images, labels)`, 0 and 1.

    Returns:
        One for each label; None where no image has it.

    Raises:
        ValueError: If a score is not a number, which has no place among the others.
    """
    if np.isnan(scores).any():
        raise ValueError("Scores must be numbers that can be ordered. Received: NaN among them")
    return [average_precision(*columns) for columns in zip(scores.T, targets.T, strict=True)]


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of the average precisions of the labels that some image has.

    Args:
        scores: `(images, labels)`.
        targets: `(images, labels)`, 0 and 1.

    Returns:
        The mean in 0..1, every label counting alike.

    Raises:
        ValueError: If no image has a label, or a score is not a number.
    """
    found = [each for each in average_precisions(scores, targets) if each is not None]
    if not found:
        raise ValueError("At least one image must have a label. Received: none with any")
    return float(np.mean(found))
