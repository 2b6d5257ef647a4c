"""Nets for images of another number of channels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from timm.models import adapt_input_conv

import keras_preact
from keras_preact.transforms import adapt_input_channels, freeze
from keras_preact.weights import adapt_kernel

RNG = np.random.default_rng(0)
NET = {"units": (3, 1), "channels": (8, 16), "strides": (1, 2), "stem": "cifar"}


def _net(data_format: str = "channels_last", channels: int = 3, **changes) -> keras.Model:
    architecture = keras_preact.Architecture(**NET, unit="basic", stem_channels=8, **changes)
    shape = (16, 20, channels) if data_format == "channels_last" else (channels, 16, 20)
    model = keras_preact.PreActResNet(
        architecture, classes=4, input_shape=shape, data_format=data_format
    )
    for variable in model.weights:
        variable.assign(variable + RNG.uniform(0.0, 0.3, variable.shape))
    return model


def _images(channels: int) -> np.ndarray:
    return RNG.standard_normal((2, 16, 20, channels)).astype("float32")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8, 13])
def test_the_rule_is_timms(channels):
    kernel = RNG.standard_normal((5, 3, 3, 7)).astype("float32")
    expected = adapt_input_conv(channels, torch.tensor(kernel.transpose(3, 2, 0, 1)))
    adapted = adapt_kernel(kernel, channels)
    assert adapted.dtype == kernel.dtype
    np.testing.assert_allclose(adapted, expected.numpy().transpose(2, 3, 1, 0), rtol=1e-6)
    assert not np.shares_memory(adapted, kernel)


SCALED = {"weight_standardization": "scaled"}
NORM_FREE = {**SCALED, "norm": "none", "residual_scaling": "norm_free", "use_bias": True}


@pytest.mark.parametrize(
    "changes", [{}, {"rematerialize": True}, {"scan_units": True}, SCALED, NORM_FREE], ids=str
)
def test_one_channel_scores_as_three_alike(changes):
    model = _net(**changes)
    gray = adapt_input_channels(model, 1)
    assert gray.input_shape == (None, 16, 20, 1)
    x = _images(1)
    np.testing.assert_allclose(gray(x), model(np.repeat(x, 3, axis=-1)), atol=1e-5)


@pytest.mark.parametrize("changes", [{}, SCALED], ids=str)
def test_six_channels_and_back_from_channels_first(changes):
    model = _net("channels_first", **changes)
    six = adapt_input_channels(model, 6)
    assert six.input_shape == (None, 6, 16, 20)
    x = _images(3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(six(np.concatenate([x, x], axis=1)), model(x), atol=1e-5)


def test_weights_are_copies_and_stay_frozen():
    model = _net()
    freeze(model, 2)
    four = adapt_input_channels(model, 4)
    assert [each.path for each in four.trainable_variables] == [
        each.path for each in model.trainable_variables
    ]
    x = _images(3)
    before = np.asarray(model(x))
    for weight in four.weights:
        weight.assign(weight + 1)
    np.testing.assert_array_equal(model(x), before)


def test_features_and_unknown_sizes_come_along():
    net = keras_preact.PreActResNet20(include_top=False)
    features = adapt_input_channels(keras_preact.feature_extractor(net), 2)
    assert features.input_shape == (None, None, None, 2)
    assert features.strides == {"stage2": 1, "stage3": 2, "stage4": 4}


@pytest.mark.parametrize("channels", [0, -1, 1.0, "3", True, None])
def test_wrong_channels(channels):
    kernel = np.zeros((3, 3, 3, 8))
    for adapt in (
        lambda: adapt_kernel(kernel, channels),
        lambda: adapt_input_channels(0, channels),
    ):
        with pytest.raises(ValueError, match="`channels` must be a positive integer. Received"):
            adapt()


def test_what_is_no_kernel():
    with pytest.raises(ValueError, match=r"Received: shape \(3, 8\)"):
        adapt_kernel(np.zeros((3, 8)), 1)


def test_a_model_of_someone_else():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(ValueError, match="must be a net of keras_preact.*'other'"):
        adapt_input_channels(other, 1)
