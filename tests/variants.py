"""Properties that hold of every variant of a net."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_preact.layers import StackedUnits
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import X, net, scores
from tests.numerics import NET, WIDE_NET, net_tolerance


def some_slow(variants: Iterable[dict[str, Any]], fast: int) -> list[Any]:
    """Return parameters of a test: the first few variants, and the others under the slow marker."""
    return [
        each if place < fast else pytest.param(each, marks=pytest.mark.slow)
        for place, each in enumerate(variants)
    ]


def least_units(changes: dict[str, Any], alike: int = 1) -> dict[str, tuple[int, int]]:
    """Return the fewest units of `SMALL` that are of every kind.

    Args:
        changes: Fields of `Architecture`.
        alike: How many neither project nor stride. The others are the first of each stage and,
            where the stride comes at the end of a stage, the last.
    """
    last = int(changes.get("stride_unit") == "last")
    return {"units": (1 + last, 1 + alike + last)}


def check_training_and_saving(changes: dict[str, Any], folder: Path) -> None:
    """Check that a step of training changes every kernel, and that a saved net scores the same."""
    model = net({**least_units(changes), **changes})
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    # Not every shift: a batch norm may follow that takes it away.
    kernels = [weight for weight in model.trainable_variables if len(weight.shape) > 1]
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    model.train_on_batch(X, np.array([1, 2]))
    for old, kernel in zip(before, kernels, strict=True):
        assert not np.array_equal(old, keras.ops.convert_to_numpy(kernel)), kernel.path
    model.save(folder / "net.keras")
    loaded = keras.saving.load_model(folder / "net.keras", safe_mode=True)
    np.testing.assert_array_equal(scores(loaded), scores(model))


def check_forms(changes: dict[str, Any], scans: bool = True) -> None:
    """Scanned units, channels first, mixed precision and XLA give the same scores.

    Args:
        changes: Fields of `Architecture`.
        scans: Whether the variant leaves the units of a stage alike, so that they scan.
    """
    changes = {**least_units(changes, alike=2 if scans else 1), **changes}
    model = net({"scan_units": False, **changes}, classifier_activation=None)
    named, expected = named_weights(model), scores(model)
    scale = np.abs(expected).max()

    def check(other: keras.Model, tolerance: float, x: np.ndarray = X) -> None:
        set_named_weights(other, named)
        np.testing.assert_allclose(scores(other, x) / scale, expected / scale, atol=tolerance)

    if scans:
        scanned = net({**changes, "scan_units": True}, classifier_activation=None)
        assert any(isinstance(layer, StackedUnits) for layer in scanned.layers)
        check(scanned, NET)
    first = {"data_format": "channels_first", "input_shape": (3, *X.shape[1:3])}
    check(net(changes, classifier_activation=None, **first), NET, X.transpose(0, 3, 1, 2))
    half = net(changes, classifier_activation=None, dtype="mixed_bfloat16")
    check(half, net_tolerance("bfloat16"))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(model, jit_compile=True)
        np.testing.assert_allclose(compiled(X) / scale, expected / scale, atol=WIDE_NET)
