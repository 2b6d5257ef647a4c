"""A small net of any variant, and what must hold of every variant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Architecture
from keras_preact.layers import StackedUnits
from keras_preact.weights import named_weights, set_named_weights

SMALL = Architecture(
    units=(2, 3),
    channels=(32, 64),
    strides=(1, 2),
    stem="cifar",
    stem_channels=16,
    norm_groups=8,
)
X = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype("float32")


def some_slow(variants: Iterable[dict[str, Any]], fast: int) -> list[Any]:
    """Parameters of a test: the first few variants, and the others under the slow marker."""
    return [
        each if place < fast else pytest.param(each, marks=pytest.mark.slow)
        for place, each in enumerate(variants)
    ]


def net(changes: dict[str, Any], randomize: bool = True, **options: Any) -> keras.Model:
    """`SMALL` with some fields changed, and no scale, shift or statistic at its first value."""
    keras.utils.set_random_seed(0)
    options = {"input_shape": X.shape[1:], "classes": 10, **options}
    model = keras_preact.PreActResNet(SMALL.replace(**changes), **options)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if randomize and len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def scores(model: Any, x: np.ndarray = X) -> np.ndarray:
    """What a model returns in inference, as an array."""
    return keras.ops.convert_to_numpy(model(x))


def check_training_and_saving(changes: dict[str, Any], folder: Path) -> None:
    """A step of training changes every kernel, and a saved net gives the same scores."""
    model = net(changes)
    model.compile("sgd", "sparse_categorical_crossentropy")
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
    model = net({"scan_units": False, **changes}, classifier_activation=None)
    named, expected = named_weights(model), scores(model)
    scale = np.abs(expected).max()

    def check(other: keras.Model, tolerance: float, x: np.ndarray = X) -> None:
        set_named_weights(other, named)
        np.testing.assert_allclose(scores(other, x) / scale, expected / scale, atol=tolerance)

    if scans:
        scanned = net({**changes, "scan_units": True}, classifier_activation=None)
        assert any(isinstance(layer, StackedUnits) for layer in scanned.layers)
        check(scanned, 1e-5)
    first = {"data_format": "channels_first", "input_shape": (3, *X.shape[1:3])}
    check(net(changes, classifier_activation=None, **first), 1e-5, X.transpose(0, 3, 1, 2))
    check(net(changes, classifier_activation=None, dtype="mixed_bfloat16"), 0.05)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(model, jit_compile=True)
        np.testing.assert_allclose(compiled(X) / scale, expected / scale, atol=1e-4)
