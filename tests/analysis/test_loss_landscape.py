"""Losses around weights and their curvature, against quadratics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

from keras_preact.analysis import (
    draw_loss_landscape,
    filter_normalized_direction,
    loss_landscape,
    sharpness,
)
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import X, net

RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((50, 4)).astype("float32")
TARGETS = RNG.standard_normal((50, 1)).astype("float32")
LABELS = np.array([1, 2])


def _quadratic(dtype: str = "float32") -> keras.Model:
    """Return a linear net: its mean squared error is a quadratic of its weights."""
    dense = keras.layers.Dense(1, use_bias=False, dtype=dtype)
    model = keras.Sequential([keras.Input((4,), dtype=dtype), dense])
    model.set_weights([np.array([[1.0], [-1.0], [0.5], [2.0]], "float32")])
    return model


def _error(weights: np.ndarray) -> float:
    return float(((INPUTS @ weights - TARGETS) ** 2).mean())


def test_the_largest_eigenvalue_of_a_quadratic():
    hessian = 2 * INPUTS.T @ INPUTS / len(INPUTS)
    found = sharpness(
        _quadratic(), INPUTS, TARGETS, "mean_squared_error", iterations=200, tolerance=1e-6
    )
    assert found.eigenvalue == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)
    assert found.change <= 1e-6 and found.iterations < 200
    few = sharpness(_quadratic(), INPUTS, TARGETS, "mean_squared_error", 2, tolerance=1e-6)
    assert few.iterations == 2 and few.change > 1e-6


def test_stacked_units_are_as_sharp_as_separate_ones():
    separate, stacked = net({"scan_units": False}), net({"scan_units": True})
    set_named_weights(stacked, named_weights(separate))
    found = [sharpness(each, X, LABELS, iterations=3) for each in (separate, stacked)]
    assert found[0].eigenvalue == pytest.approx(found[1].eigenvalue, rel=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_sharpness_of_weights_of_another_kind(dtype):
    """The weights are exact in 16 bits, the products of the Hessian are rounded to it."""
    model = _quadratic(dtype)
    hessian = 2 * INPUTS.T @ INPUTS / len(INPUTS)
    found = sharpness(model, INPUTS.astype(dtype), TARGETS, "mean_squared_error", tolerance=1e-2)
    # Of half precision, 50 terms are summed in each product, each rounded by 2**-9.
    assert found.eigenvalue == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=0.05)


def test_lines_and_planes_of_a_quadratic():
    model = _quadratic()
    # Counts in no analysis.
    model.trainable_variables[0].regularizer = keras.regularizers.L2(0.1)
    weights = model.get_weights()[0]
    directions = [[RNG.standard_normal((4, 1)).astype("float32")] for _ in range(2)]
    places = [-1.0, 0.0, 0.5]
    line = loss_landscape(model, INPUTS, TARGETS, directions[:1], places, "mean_squared_error")
    expected = [_error(weights + a * directions[0][0]) for a in places]
    np.testing.assert_allclose(line.losses, expected, rtol=1e-5)
    plane = loss_landscape(model, INPUTS, TARGETS, directions, places, "mean_squared_error")
    expected = [
        [_error(weights + a * directions[0][0] + b * directions[1][0]) for b in places]
        for a in places
    ]
    np.testing.assert_allclose(plane.losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(model.get_weights()[0], weights)


def test_what_was_measured_is_kept(tmp_path):
    path, calls = tmp_path / "plane.npz", []
    directions = [[np.ones((4, 1), "float32")]] * 2
    arguments = (INPUTS, TARGETS, directions, [0.0, 1.0, 2.0], "mean_squared_error")

    def stop(done: int, rows: int) -> None:
        calls.append((done, rows))
        if done == 2:
            raise KeyboardInterrupt

    model = _quadratic()
    with pytest.raises(KeyboardInterrupt):
        loss_landscape(model, *arguments, path=path, progress=stop)
    np.testing.assert_array_equal(model.get_weights()[0], _quadratic().get_weights()[0])
    resumed = loss_landscape(model, *arguments, path=path, progress=stop)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    whole = loss_landscape(model, *arguments)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    with pytest.raises(ValueError, match=r"at \[0. 1. 2.\]. Expected: \(2, 2\)"):
        loss_landscape(model, INPUTS, TARGETS, directions, [0.0, 1.0], "mse", path=path)
    model.set_weights([2 * each for each in model.get_weights()])
    with pytest.raises(ValueError, match="losses of another net"):
        loss_landscape(model, *arguments, path=path)


def _weighted(factor: float) -> Callable:
    return lambda y, outputs: factor * ops.square(outputs - y)


@pytest.mark.parametrize(
    ("loss", "same", "other"),
    [
        ("mse", "mean_squared_error", "mean_absolute_error"),
        (["mse"], "mse", ["mae"]),
        (keras.losses.Huber(2.0), keras.losses.Huber(2.0), keras.losses.Huber(0.1)),
        (_weighted(2.0), _weighted(2.0), _weighted(3.0)),
        [partial(keras.losses.huber, delta=delta) for delta in (2.0, 2.0, 0.1)],
    ],
    ids=["name", "list", "object", "closure", "partial"],
)
def test_what_was_measured_of_another_loss_is_refused(loss, same, other, tmp_path):
    direction = [np.ones((4, 1), "float32")]
    arguments = (_quadratic(), INPUTS, TARGETS, [direction], [0.0])
    path = tmp_path / "line.npz"
    first, again = (loss_landscape(*arguments, each, path=path) for each in (loss, same))
    np.testing.assert_array_equal(first.losses, again.losses)
    with pytest.raises(ValueError, match="is of another loss"):
        loss_landscape(*arguments, other, path=path)


def test_a_file_of_an_earlier_version_is_refused_as_such(tmp_path):
    path = tmp_path / "line.npz"
    np.savez(path, coordinates=[0.0], losses=[1.0], rows=1, about="")
    with pytest.raises(ValueError, match=r"line.npz is of an earlier version.*penalties"):
        loss_landscape(_quadratic(), INPUTS, TARGETS, [[np.ones((4, 1))]], [0.0], "mse", path=path)


@pytest.mark.parametrize("unit", ["bottleneck", "inverted_bottleneck"])
@pytest.mark.parametrize("scan_units", [False, True])
def test_every_filter_of_a_direction_is_as_large_as_the_nets(scan_units, unit):
    model = net({"scan_units": scan_units, "unit": unit})
    depthwise = unit == "inverted_bottleneck"
    direction = filter_normalized_direction(model, seed=1)
    assert len(direction) == len(model.trainable_variables)
    for array, variable in zip(direction, model.trainable_variables, strict=True):
        weights = ops.convert_to_numpy(variable)
        stacked = "to3" in variable.path
        if weights.ndim - stacked < 2:
            assert not array.any()
            continue
        channels = 2 if depthwise and "conv2" in variable.path else 1
        axes = tuple(range(int(stacked), weights.ndim - channels))
        norms = [np.sqrt((each**2).sum(axis=axes)) for each in (array, weights)]
        np.testing.assert_allclose(*norms, rtol=1e-4, err_msg=variable.path)
        assert not np.allclose(array, weights)


def test_what_cannot_be_done_is_said():
    model = _quadratic()
    with pytest.raises(ValueError, match="one or two. Received: 3"):
        loss_landscape(model, INPUTS, TARGETS, [[np.ones((4, 1))]] * 3, [0.0])
    with pytest.raises(ValueError, match=r"of the shapes \[\(4,\)\]"):
        loss_landscape(model, INPUTS, TARGETS, [[np.ones(4)]], [0.0])
    with pytest.raises(ValueError, match="1 or more. Received: 0"):
        sharpness(model, INPUTS, TARGETS, "mean_squared_error", iterations=0)
    model.trainable = False
    with pytest.raises(ValueError, match="weights that are trained"):
        sharpness(model, INPUTS, TARGETS, "mean_squared_error")


def test_pictures(tmp_path):
    directions = [[np.ones((4, 1), "float32")], [np.array([[1.0], [-1], [1], [-1]], "float32")]]
    places = np.linspace(-1, 1, 5)
    for count in (1, 2):
        measured = loss_landscape(
            _quadratic(), INPUTS, TARGETS, directions[:count], places, "mean_squared_error"
        )
        draw_loss_landscape(tmp_path / f"{count}.svg", measured, "$A_$B")
        assert "$A_$B" in (tmp_path / f"{count}.svg").read_text()
