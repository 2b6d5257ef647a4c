"""Gradients of micro-batches, added up, are those of the whole batch; on every backend."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.nets import TINY, images, net
from training.compiling import compile_for_training
from training.engines.callbacks.averaging import averaged_weights
from training.engines.devices import one_device
from training.recipe import Recipe

BATCH, PARTS, STEPS = 12, 3, 2
X = images(STEPS * BATCH, 8, 8, 3)
LABELS = np.eye(4, dtype="float32")[np.random.default_rng(1).integers(0, 4, len(X))]
WEIGHTS = np.random.default_rng(2).random(len(X)).astype("float32")
# Unit round-off of float32, times the terms of a sum that is taken in another order.
TOLERANCE = 2.0**-24 * 8 * 8 * BATCH


def small_net(norm: str = "group") -> keras.Model:
    keras.backend.clear_session(free_memory=False)
    changes = {"norm": norm, "norm_groups": 4}
    return net(changes, architecture=TINY, input_shape=(8, 8, 3), classes=4)


def values(variables) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(each) for each in variables]


def train(parts: int, order=slice(None), **changes) -> tuple[keras.Model, dict]:
    """Train for an epoch, with a warm-up, a schedule and averaged weights."""
    small = small_net()
    recipe = Recipe(
        batch_size=BATCH,
        reference_batch_size=BATCH,
        gradient_accumulation_steps=parts,
        epochs=2,
        warmup_epochs=0.5,
        nesterov=True,
        ema_momentum=0.5,
        **changes,
    )
    model = one_device().model(small.inputs, small.outputs, name=small.name)
    compile_for_training(small, recipe, STEPS, model)
    history = model.fit(
        X[order],
        LABELS[order],
        sample_weight=WEIGHTS[order],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    return model, history.history


def assert_close(received, expected) -> None:
    for one, other in zip(values(received), values(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="module")
def whole() -> tuple[keras.Model, dict]:
    return train(1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_micro_batches_train_as_the_whole_batch(whole, jit_compile):
    if jit_compile and keras.backend.backend() != "tensorflow":
        pytest.skip("XLA is a choice on TensorFlow only")
    model, history = train(PARTS, jit_compile=jit_compile)
    expected_model, expected = whole
    assert_close(model.weights, expected_model.weights)
    # Velocities, averages and the number of steps, and nothing else that a checkpoint would miss.
    names = [each.path for each in model.optimizer.variables]
    assert names == [each.path for each in expected_model.optimizer.variables]
    assert_close(model.optimizer.variables, expected_model.optimizer.variables)
    assert int(model.optimizer.iterations) == STEPS
    for name in ("loss", "top1"):
        np.testing.assert_allclose(history[name], expected[name], rtol=TOLERANCE)


def test_micro_batches_train_as_with_keras_own_accumulation():
    """Batch norm, too, takes the statistics of each."""
    numbers = np.arange(len(X)).reshape(STEPS, -1, PARTS).swapaxes(1, 2).ravel()
    theirs = small_net("batch")
    theirs.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=PARTS),
        "categorical_crossentropy",
    )
    theirs.fit(X[numbers], LABELS[numbers], batch_size=BATCH // PARTS, shuffle=False, verbose=0)
    small = small_net("batch")
    ours = one_device().model(small.inputs, small.outputs, name=small.name)
    ours.gradient_accumulation_steps = PARTS
    # A loss scale changes nothing.
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    ours.compile(keras.optimizers.LossScaleOptimizer(sgd, 1024.0), "categorical_crossentropy")
    ours.fit(X, LABELS, batch_size=BATCH, shuffle=False, verbose=0)
    assert_close(ours.weights, theirs.weights)


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"gradient_accumulation_steps": 2}, "2, 0.0 and a Functional"),
        ({"ema_momentum": 0.9}, "1, 0.9 and a Functional"),
    ],
)
def test_a_model_that_cannot_take_the_steps_is_refused(changes, received):
    small = small_net()
    with pytest.raises(
        ValueError, match=f"need a model of `trainable_model`. Received: {received}"
    ):
        compile_for_training(small, Recipe(**changes), STEPS, small)


@pytest.mark.parametrize("parts", [1, PARTS])
def test_averages_are_of_the_weights_and_of_the_statistics_of_norms(parts):
    """Both with the momentum of `tf.train.ExponentialMovingAverage`, here 0.1 and then 0.15."""
    small = small_net("batch")
    recipe = Recipe(
        batch_size=BATCH, gradient_accumulation_steps=parts, ema_momentum=0.15, epochs=9
    )
    model = compile_for_training(small, recipe, STEPS)
    expected = None
    for momentum in (0.0, 1 / 10, 0.15):
        model.train_on_batch(X[:BATCH], LABELS[:BATCH], WEIGHTS[:BATCH])
        trained = values(small.weights)
        expected = [
            momentum * average + (1 - momentum) * value if momentum else value
            for average, value in zip(expected or trained, trained, strict=True)
        ]
    with averaged_weights(model):
        assert_close(small.weights, expected)
    for received, value in zip(values(small.weights), trained, strict=True):
        np.testing.assert_array_equal(received, value)
