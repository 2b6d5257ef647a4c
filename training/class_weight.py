"""Weights of classes in the loss."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# Allowed values of a recipe's `class_weight`.
CLASS_WEIGHTS = ("none", "balanced")


def class_weights(name: str, labels: Iterable[np.ndarray], classes: int) -> np.ndarray | None:
    """Return the weight of every class, as `class_weight` of scikit-learn has it.

    Args:
        name: `"none"`, or `"balanced"`: in inverse proportion to the number of its images, so that
            the mean weight of the images is 1.
        labels: Parts of the labels of the training images, each integers `(images,)`; not read for
            `"none"`.
        classes: Number of classes.

    Returns:
        float32 `(classes,)`, 0 for a class without images; None if all weigh the same.
    """
    if name == "none":
        return None
    counts = np.zeros(classes, np.int64)
    for part in labels:
        counts += np.bincount(part, minlength=classes)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 0.0).astype("float32")
