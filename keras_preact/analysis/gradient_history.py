"""Gradients while a net learns: `gradient_flow`, every so many steps of `model.fit`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_preact.analysis.gradient_flow import GradientFlow, gradient_flow
from keras_preact.analysis.pictures.figures import new_figure, plain, save_figure
from keras_preact.tensor import Tensor


class GradientHistory(keras.callbacks.Callback):
    """Callback that measures the gradient at every unit while a net trains, from the start on.

    Pass it to `model.fit` in `callbacks`. With several steps per execution, it measures after the
    execution in which a measurement is due. Each measurement costs about three steps of training on
    its images. Nothing about the training changes.

    Args:
        x: Images to measure, `(batch, height, width, channels)`, or with the channels first.
        y: Targets that the loss compares with the net's output.
        every: Steps between two measurements.
        loss: A Keras loss, or its name.

    Attributes:
        steps: Steps that the net had been trained for, by measurement.
        flows: Measurements, by step.

    Raises:
        ValueError: If `every` is less than 1.
    """

    def __init__(
        self, x: Tensor, y: Tensor, every: int, loss: Any = "sparse_categorical_crossentropy"
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be 1 or more. Received: {every}")
        self._arguments = (x, y, loss)
        self._every = every
        self._done = 0
        self.steps: list[int] = []
        self.flows: list[GradientFlow] = []

    @property
    def inputs(self) -> np.ndarray:
        """Return the norms of the gradient at the units' inputs, `(measurements, units)`."""
        return np.array([flow.inputs for flow in self.flows])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Measure the net as it is, unless it is the one measured last."""
        if not self.steps:
            self._measure()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the first step of an execution."""
        self._first = batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps of the execution, and measure if one of them is due."""
        # Keras counts the last execution as a whole one, though the epoch may end within it.
        end = min(batch + 1, self.params.get("steps") or batch + 1)
        before, self._done = self._done, self._done + end - self._first
        if self._done // self._every > before // self._every:
            self._measure()

    def _measure(self) -> None:
        if keras.backend.backend() == "jax":
            # While JAX trains, the variables are those of the last synchronization.
            self.model.jax_state_sync()
        self.steps.append(self._done)
        self.flows.append(gradient_flow(self.model, *self._arguments))


def draw_gradient_history(
    path: str | os.PathLike, histories: Mapping[str, GradientHistory], title: str = ""
) -> None:
    """Draw each net's gradients as a map of units and steps, on one scale of colors.

    Args:
        path: File of the picture, a PNG, SVG or PDF by its ending.
        histories: Measurements, by label.
        title: Title of the picture.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If nothing was measured.
    """
    if empty := [label for label, history in histories.items() if not history.steps]:
        raise ValueError(f"Nothing was measured in {empty}: give the callbacks to `model.fit`.")
    figure = new_figure(figsize=(5 * len(histories) + 1, 4), layout="constrained")
    logarithms = {label: np.log10(history.inputs) for label, history in histories.items()}
    finite = np.concatenate([each[np.isfinite(each)] for each in logarithms.values()])
    scale = {"vmin": finite.min(), "vmax": finite.max()}
    panels = figure.subplots(1, len(histories), sharey=True, squeeze=False)[0]
    for axes, (label, history) in zip(panels, histories.items(), strict=True):
        units = np.arange(1, history.inputs.shape[1] + 1)
        mesh = axes.pcolormesh(units, history.steps, logarithms[label], shading="nearest", **scale)
        axes.set_title(plain(label), fontsize=10)
        axes.set_xlabel("unit")
    panels[0].set_ylabel("steps of training")
    figure.colorbar(mesh, ax=list(panels), label="gradient's norm, power of ten")
    figure.suptitle(plain(title))
    save_figure(figure, path)
