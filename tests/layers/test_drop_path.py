"""Stochastic depth."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_preact.layers import DropPath


def test_drops_whole_examples_and_scales_the_rest():
    x = np.random.default_rng(0).uniform(1, 2, (2000, 3, 2)).astype("float32")
    y = np.asarray(DropPath(0.4, seed=1)(x, training=True))
    dropped = (y == 0).all(axis=(1, 2))
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.6, rtol=1e-5)
    # Five standard deviations of a binomial share.
    assert abs(dropped.mean() - 0.4) < 5 * np.sqrt(0.4 * 0.6 / 2000)


def test_inference_changes_nothing():
    x = np.ones((4, 2), "float32")
    np.testing.assert_array_equal(DropPath(0.9)(x), x)


def test_draws_follow_the_seed():
    x = np.ones((64, 1), "float32")
    draws = [np.asarray(DropPath(0.5, seed=seed)(x, training=True)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_config_round_trip():
    layer = DropPath(0.25, seed=7)
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert (type(copy), copy.rate, copy.seed) == (DropPath, 0.25, 7)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match=f"`rate` must be in .* Received: {rate}"):
        DropPath(rate)
