"""Evaluation of nets that tell labels, whose metric needs all scores at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from training.average_precision import mean_average_precision
from training.compiling import binary_crossentropy
from training.engines.callbacks.averaging import averaged_weights


class LabelValidation(keras.callbacks.Callback):
    """Callback that adds `val_loss` and `val_mAP` to the logs of an epoch.

    A metric of Keras sees a batch at a time, and average precision is of the order of all images:
    so this stands in the place of the validation of `fit`, before any callback that reads its logs.

    Args:
        batches: Inputs and targets `(batch, labels)` of all test images, the same at each pass.
        average: Gives every replica of a model the mean of all replicas' moving statistics.
        label_smoothing: That of the loss.
        replicas: Number of replicas, of which a batch must be a multiple.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Any, Any]],
        average: Callable[[keras.Model], None],
        label_smoothing: float = 0.0,
        replicas: int = 1,
    ) -> None:
        super().__init__()
        self._batches = batches
        self._average = average
        self._label_smoothing = label_smoothing
        self._replicas = replicas

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate the moving average of the weights."""
        if logs is None:
            return
        self._average(self.model)
        with averaged_weights(self.model):
            answers, size = [], 0
            for inputs, targets in self._batches:
                # The last batch has the shape of the others, so that the net is traced once.
                size = max(size, len(inputs) + -len(inputs) % self._replicas)
                answers.append((self._scores(np.asarray(inputs), size), np.asarray(targets)))
        scores, targets = (np.concatenate(each) for each in zip(*answers, strict=True))
        logs["val_loss"] = binary_crossentropy(scores, targets, self._label_smoothing)
        # Of a net that has diverged nothing can be ordered, which the loss tells.
        finite = np.isfinite(scores).all()
        logs["val_mAP"] = mean_average_precision(scores, targets) if finite else 0.0

    def _scores(self, inputs: np.ndarray, size: int) -> np.ndarray:
        count = len(inputs)
        padding = np.repeat(inputs[-1:], size - count, axis=0)
        scores = self.model.predict_on_batch(np.concatenate([inputs, padding]))
        # Replicas of TensorFlow give the whole batch each.
        return np.asarray(scores, "float32")[:count]
