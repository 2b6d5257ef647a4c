"""ShakeDrop: random factors in place of dropping, others for the gradient."""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
import pytest

from keras_preact.layers import ShakeDrop
from keras_preact.transforms import fold, stack, unroll
from tests.nets import SMALL, X, net, scores
from tests.variants import check_forms, check_training_and_saving

PYRAMID = {"drop_path": 0.5, "drop_path_form": "shake", "order": "pyramid"}


def test_trains_saves_and_loads(tmp_path):
    check_training_and_saving(PYRAMID, tmp_path)


def test_every_form_gives_the_same_scores():
    check_forms(PYRAMID)


def _factors(rate: float, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of each example forward, and of each gradient backward."""
    layer = ShakeDrop(rate, seed=1)
    x = np.random.default_rng(0).uniform(1, 2, (examples, 3, 2)).astype("float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
        gradient = tape.gradient(y, inputs)
    elif keras.backend.backend() == "torch":
        import torch

        inputs = torch.tensor(x, requires_grad=True)
        y = layer(inputs, training=True)
        (gradient,) = torch.autograd.grad(y.sum(), inputs)
    else:
        import jax

        y, pull = jax.vjp(lambda inputs: layer(inputs, training=True), x)
        (gradient,) = pull(np.ones_like(x))
    forward, backward = np.asarray(y.detach() if hasattr(y, "detach") else y) / x, gradient
    backward = np.asarray(backward)
    # One factor for all of an example.
    np.testing.assert_allclose(forward, forward[:, :1, :1] * np.ones_like(x), atol=1e-5)
    np.testing.assert_allclose(backward, backward[:, :1, :1] * np.ones_like(x), atol=1e-5)
    return forward[:, 0, 0], backward[:, 0, 0]


def test_factors_are_the_papers():
    rate, examples = 0.4, 8000
    forward, backward = _factors(rate, examples)
    # b + alpha - b * alpha is 1 where b is, and there the gradient's factor is 1 too.
    shaken = np.abs(backward - 1) > 1e-6
    np.testing.assert_allclose(forward[~shaken], 1, atol=1e-6)

    def close(values: np.ndarray, mean: float, variance: float) -> None:
        assert abs(values.mean() - mean) < 5 * np.sqrt(variance / len(values))

    close(shaken, rate, rate * (1 - rate))
    alpha, beta = forward[shaken], backward[shaken]
    close(alpha, 0, 1 / 3)
    close(alpha**2, 1 / 3, 1 / 5 - 1 / 9)
    close(beta, 1 / 2, 1 / 12)
    close(beta**2, 1 / 3, 1 / 5 - 1 / 9)
    close((alpha * (beta - 1 / 2)), 0, 1 / 36)
    assert (np.abs(alpha) <= 1 + 1e-5).all()
    assert (beta >= -1e-6).all()
    close(forward, 1 - rate, (1 - rate) + rate / 3 - (1 - rate) ** 2)


def test_inference_multiplies_by_the_mean_factor():
    x = np.ones((4, 2), "float32")
    np.testing.assert_allclose(ShakeDrop(0.4)(x), 0.6 * x, rtol=1e-6)
    np.testing.assert_allclose(ShakeDrop(0.0)(x, rate=0.25), 0.75 * x, rtol=1e-6)


def test_every_unit_has_its_rate():
    model = net({**PYRAMID, "scan_units": True})
    rates = [
        layer.rate for layer in unroll(model).layers if layer.name.endswith("_unit3_drop_path")
    ]
    assert rates == [pytest.approx(0.5)]
    flat = net({**PYRAMID, "scan_units": False}).layers
    rates = [layer.rate for layer in flat if isinstance(layer, ShakeDrop)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    ("changes", "rescalings"),
    [(PYRAMID, 0), ({**PYRAMID, "attention": "se"}, 4)],
    ids=["norm", "attention"],
)
def test_folding_leaves_a_factor(changes, rescalings):
    model = net({**changes, "units": (1, 3), "scan_units": True}, classifier_activation=None)
    expected = scores(model)
    folded = fold(model)
    kinds = Counter(type(layer).__name__ for layer in folded.layers)
    assert (kinds["ShakeDrop"], kinds["Rescaling"]) == (0, rescalings)
    for other in (folded, stack(unroll(model))):
        np.testing.assert_allclose(scores(other), expected, atol=1e-5 * np.abs(expected).max())


def test_training_draws_anew():
    model = net({**PYRAMID, "scan_units": True})
    first, second = (keras.ops.convert_to_numpy(model(X, training=True)) for _ in range(2))
    assert not np.allclose(first, second)


def test_config_round_trip():
    layer = ShakeDrop(0.25, seed=7)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert (type(copy), copy.rate, copy.seed) == (ShakeDrop, 0.25, 7)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="`rate` must be in .* Received: -0.1"):
        ShakeDrop(-0.1)
    with pytest.raises(ValueError, match="`drop_path_form` must be one of"):
        SMALL.replace(drop_path_form="shakeshake")
