"""Weights of classes in the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.listing.listing import Images

# Allowed values of a recipe's `class_weight`.
CLASS_WEIGHTS = ("none", "balanced")


def class_weights(name: str, images: Images, count: Callable[[], np.ndarray]) -> np.ndarray | None:
    """Return the weight of every class, as `class_weight` of scikit-learn has it.

    Args:
        name: `"none"`, or `"balanced"`: in inverse proportion to the number of its images, so that
            the mean weight of the images is 1.
        images: The images.
        count: Counts the training images of every class, integers `(classes,)`; not called for
            `"none"`.

    Returns:
        float32 `(classes,)`, 0 for a class without images; None if all weigh the same.

    Raises:
        ValueError: If images that have several labels are to be weighed.
    """
    if name == "none":
        return None
    if images.label_sets is not None:
        raise ValueError(
            "`class_weight` weighs an image by its one class, and must be none for images with "
            f"several labels. Received: {name!r}"
        )
    counts = count()
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 0.0).astype("float32")
