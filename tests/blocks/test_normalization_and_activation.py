"""Kinds of normalization, none among them, and activations."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import FilterResponseNormTlu2d, LayerNorm2d

import keras_preact
from keras_preact.blocks.stem import STEMS
from keras_preact.layers import Conv2D, FilterResponseNormalization
from keras_preact.spec.orders import ORDERS
from keras_preact.weights import set_named_weights
from keras_preact.weights.converters import CONVERTERS
from tests.nets import X, net, scores
from tests.variants import check_forms, check_training_and_saving, some_slow

VARIANTS = [
    {"norm": "layer"},
    {"norm": "frn", "activation": "linear"},
    {"norm": "none", "use_bias": "unnormalized"},
    {"activation": "gelu"},
]
VARIANTS = [{"unit": "basic", **changes} for changes in VARIANTS]

UNITS = (1, 2, 1, 1)


def _id(changes: dict) -> str:
    return "-".join(changes.values())


@pytest.mark.parametrize("changes", VARIANTS, ids=_id)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", some_slow(VARIANTS, 2), ids=_id)
def test_every_form_gives_the_same_scores(changes):
    check_forms(changes)


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("layer", "theirs"),
    [
        (keras.layers.LayerNormalization, LayerNorm2d),
        (FilterResponseNormalization, FilterResponseNormTlu2d),
    ],
)
def test_layers_are_timms(layer, theirs):
    ours, theirs = layer(epsilon=1e-3), theirs(3, eps=1e-3)
    ours.build(X.shape)
    rng = np.random.default_rng(2)
    for variable, parameter in zip(ours.variables, theirs.parameters(), strict=True):
        variable.assign(rng.uniform(-1, 1, 3))
        parameter.data[:] = torch.tensor(keras.ops.convert_to_numpy(variable))
    with torch.inference_mode():
        expected = theirs(torch.tensor(X.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(ours(X), expected.transpose(0, 2, 3, 1), atol=1e-5)


def test_statistics_of_responses_do_not_overflow_in_16_bits():
    layer = FilterResponseNormalization(dtype="mixed_float16")
    x = (300 * np.abs(X)).astype("float16")
    large = layer(x)
    x = x.astype("float64")
    expected = x / np.sqrt((x**2).mean(axis=(1, 2), keepdims=True) + layer.epsilon)
    # The inverse root and the product with it round once each; the least numbers are 2**-24 apart.
    np.testing.assert_allclose(large, expected, rtol=2 * 2**-11, atol=2**-24)
    assert keras.backend.standardize_dtype(large.dtype) == "float16"


def test_a_net_of_response_norms_is_timms(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("resnetv2_50d_frn", layers=UNITS, num_classes=10).eval()
    for tensor in theirs.state_dict().values():
        if tensor.ndim == 1:
            torch.nn.init.uniform_(tensor, 0.3, 0.8)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    x = np.random.default_rng(0).standard_normal((1, 96, 64, 3)).astype("float32")
    ours = keras_preact.PreActResNet50d(
        weights=None,
        input_shape=x.shape[1:],
        classes=10,
        classifier_activation=None,
        units=UNITS,
        norm="frn",
        activation="linear",
    )
    set_named_weights(ours, CONVERTERS["timm"](tmp_path / "model.safetensors"))
    with torch.inference_mode():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(scores(ours, x), expected, atol=1e-4 * np.abs(expected).max())


def test_thresholds_are_the_only_weights_beyond_those_of_batch_normalization():
    plain, frn = (
        sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
        for model in (net({}), net({"norm": "frn", "activation": "linear"}))
    )
    channels = sum(
        layer.gamma.shape[0]
        for layer in net({}).layers
        if isinstance(layer, keras_preact.layers.BatchNormalization)
    )
    assert frn - plain == channels


def test_response_norms_contain_the_activation():
    with pytest.raises(ValueError, match='`activation` must be "linear" with `norm="frn"`'):
        net({"norm": "frn"})


@pytest.mark.parametrize("order", ORDERS)
def test_without_normalization_only_activations_stand_between(order):
    model = net({"norm": "none", "order": order, "use_bias": "unnormalized"})
    assert not [layer.name for layer in model.layers if "norm" in layer.name]
    assert all(layer.use_bias for layer in model.layers if isinstance(layer, Conv2D))
    acts = [layer for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    batch = [layer for layer in net({"order": order}).layers]
    assert len(acts) == len([each for each in batch if isinstance(each, keras.layers.Activation)])


@pytest.mark.parametrize("stem", STEMS)
def test_stems_without_normalization(stem):
    model = net({"norm": "none", "stem": stem, "use_bias": "unnormalized"})
    convolutions = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    assert all(layer.use_bias for layer in convolutions)
    assert not [layer.name for layer in model.layers if "norm" in layer.name]


@pytest.mark.parametrize("order", ["full_preactivation", "original", "pyramid"])
def test_units_without_normalization_can_start_as_the_identity(order):
    changes = {"norm": "none", "order": order, "zero_init_residual": True, "units": (1, 2)}
    model = net(changes, randomize=False)
    _, branch = model.get_layer("stage3_unit2_add").input
    assert not np.any(keras.Model(model.input, branch)(X))
    optimizer, loss = keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, run_eagerly=True)
    model.train_on_batch(X, np.array([1, 2]))
    assert np.any(keras.Model(model.input, branch)(X))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.2 * x)),
        ("gelu", lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5))),
    ],
)
def test_activations_are_keras_own_wherever_one_stands(name, formula):
    model = net({"activation": name})
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    assert len(layers) == 3 * 5 + 1
    ends = [tensor for each in layers for tensor in (each.input, each.output)]
    maps = [np.asarray(each, "float64") for each in keras.Model(model.input, ends)(X)]
    for before, after in zip(maps[::2], maps[1::2], strict=True):
        np.testing.assert_allclose(after, formula(before), rtol=1e-4, atol=1e-5)
