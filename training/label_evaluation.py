"""Results of a net on images with any number of labels each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.average_precision import average_precisions
from training.compiling import binary_crossentropy


@dataclass(frozen=True)
class LabelEvaluation:
    """Results of a net on images with any number of labels each.

    Args:
        class_names: Name of each label.
        images: Number of images.
        with_label: Number of images that have each label.
        average_precisions: Average precision of each label; None for a label that no image has.
        loss: Mean binary cross-entropy; None where the net's answers are no probabilities.
    """

    class_names: tuple[str, ...]
    images: int
    with_label: tuple[int, ...]
    average_precisions: tuple[float | None, ...]
    loss: float | None = None

    @property
    def mean_average_precision(self) -> float:
        """Mean over the labels that some image has."""
        return float(np.mean([each for each in self.average_precisions if each is not None]))

    def results(self) -> dict[str, Any]:
        """Return the entries of `evaluation.json`."""
        return {
            "images": self.images,
            "mAP": self.mean_average_precision,
            "loss": self.loss,
            "per_label": dict(zip(self.class_names, self.average_precisions, strict=True)),
            "images_with_label": dict(zip(self.class_names, self.with_label, strict=True)),
        }

    def lines(self) -> list[str]:
        """Return the results as lines of text."""
        width = max(map(len, self.class_names))
        lines = [f"Images  {self.images}", f"mAP     {self.mean_average_precision:.2%}"]
        if self.loss is not None:
            lines.append(f"Loss    {self.loss:.4f} (binary cross-entropy)")
        lines.append("By label, average precision and images that have it:")
        rows = zip(self.class_names, self.average_precisions, self.with_label, strict=True)
        for name, precision, count in rows:
            share = "no images" if precision is None else f"{precision:7.2%}  {count}"
            lines.append(f"  {name:{width}}  {share}")
        return lines


def measured_labels(
    scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> LabelEvaluation:
    """Compare a net's scores with the labels of images.

    Args:
        scores: `(images, labels)`, of each label on its own.
        labels: `(images, labels)`, 0 and 1.
        class_names: Name of each label.

    Returns:
        The results.

    Raises:
        ValueError: If a score is not a number.
    """
    probabilities = scores.min() >= 0 and scores.max() <= 1
    return LabelEvaluation(
        tuple(class_names),
        len(labels),
        tuple(int(count) for count in labels.sum(axis=0)),
        tuple(average_precisions(scores, labels)),
        binary_crossentropy(scores, labels) if probabilities else None,
    )
