"""Latency of nets that are not built: a sum over parts that are each timed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_preact.analysis.costs.tables import PartTable, Values
from keras_preact.architecture import Architecture


class LatencyTable(PartTable):
    """Measured latencies of a family of nets, for searches that limit them.

    A part is timed when it is first needed, as a model of its own on the device that Keras computes
    on; `keras.device` chooses another. What a call takes without any layer is subtracted. The sum
    leaves out what a device gains or loses by parts that follow one another, so it ranks
    candidates; the time of one that is chosen should be measured.

    Args:
        architecture: One net of the family. The others have as many stages, and differ from it in
            `units` and `channels` only.
        input_shape: Shape of an image, `(height, width, channels)`, or with the channels first; by
            default that of the builders.
        classes: Number of classes.
        batch_size: Images of one forward pass.
        repeats: Forward passes of a part, of which the fastest counts.
        **options: `include_top`, `pooling`, `data_format` and `dtype`; see the builders.

    Raises:
        ValueError: If the shape is not that of an image, its height or width is unknown, or another
            argument is not positive.
    """

    def __init__(
        self,
        architecture: Architecture,
        input_shape: Sequence[int] | None = None,
        classes: int = 1000,
        *,
        batch_size: int = 1,
        repeats: int = 20,
        **options: Any,
    ) -> None:
        for name, value in {"batch_size": batch_size, "repeats": repeats}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
        super().__init__(architecture, input_shape, classes, self._timed, **options)
        self._batch_size = batch_size
        self._repeats = repeats

    def seconds(self, units: Sequence[int], channels: Sequence[int]) -> float:
        """Return the seconds of one forward pass of a net of the family.

        Args:
            units: Residual units of each stage.
            channels: Output channels of each stage.

        Returns:
            The sum of its parts' seconds.

        Raises:
            ValueError: If there is no net of these units and channels.
        """
        return self.sums(units, channels)[0]

    def _timed(self, part: keras.Model) -> Values:
        inputs = part.inputs[0]
        nothing = keras.Model(inputs, keras.layers.Identity()(inputs))
        return (max(0.0, self._fastest(part) - self._fastest(nothing)),)

    def _fastest(self, model: keras.Model) -> float:
        # Without XLA, as nets are trained and exported; but JAX would compute layer by layer.
        model.compile(jit_compile=keras.backend.backend() == "jax")
        random = np.random.default_rng(0)
        x = random.standard_normal((self._batch_size, *model.input_shape[1:]), "float32")
        # The first pass compiles.
        model.predict_on_batch(x)
        return min(self._pass(model, x) for _ in range(self._repeats))

    @staticmethod
    def _pass(model: keras.Model, x: np.ndarray) -> float:
        start = time.perf_counter()
        model.predict_on_batch(x)
        return time.perf_counter() - start
