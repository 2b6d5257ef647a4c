"""Blurs in place of strides: the layer against timm's, where it stands, and what it is for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from timm.layers import BlurPool2d

import keras_preact
from keras_preact import transforms
from keras_preact.layers import BlurPool2D, MaxPooling2D
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import X, net, scores
from tests.numerics import LAYER, NET
from tests.variants import check_forms, check_training_and_saving, some_slow

VARIANTS = {
    "blur": {"blur_pool": True, "strides": (2, 2)},
    "slim": {
        "units": (1, 3),
        "blur_pool": True,
        "stride_unit": "last",
        "downsample": "subsample",
    },
    "res2 d": {
        "blur_pool": True,
        "spatial": "res2",
        "res2_scale": 2,
        "stem": "deep",
        "downsample": "avg_pool",
    },
}
MAPS = np.random.default_rng(0).standard_normal((2, 9, 8, 3)).astype("float32")


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", some_slow(VARIANTS.values(), 1), ids=VARIANTS)
def test_every_form_gives_the_same_scores(changes):
    # With the stride at their end, only one unit of these stages is left to run by itself.
    check_forms(changes, scans=changes.get("stride_unit") != "last")


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_the_layer_equals_timms(strides, data_format):
    first = MAPS.transpose(0, 3, 1, 2)
    layer = BlurPool2D(strides, data_format=data_format)
    x = MAPS if data_format == "channels_last" else first
    ours = np.asarray(layer(x))
    theirs = BlurPool2d(3, stride=strides)(torch.tensor(first)).numpy()
    if data_format == "channels_last":
        theirs = theirs.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, atol=LAYER)
    assert layer.compute_output_shape(x.shape) == ours.shape


def test_the_layer_comes_back_from_its_config():
    layer = BlurPool2D(3, dilation=2, data_format="channels_first", name="blur")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()


def test_a_dilated_blur_is_the_coarse_one_at_every_pixel():
    dense = np.asarray(BlurPool2D(1, dilation=2)(MAPS[:, :9, :7]))
    coarse = np.asarray(BlurPool2D(1)(MAPS[:, :9:2, :7:2]))
    np.testing.assert_allclose(dense[:, ::2, ::2], coarse, atol=LAYER)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_maps_that_are_too_small_are_refused_when_the_layer_is_built(data_format):
    first = data_format == "channels_first"
    layer = BlurPool2D(2, dilation=2, data_format=data_format, name="blur")
    shape = (None, 3, 3, 2) if first else (None, 3, 2, 3)
    with pytest.raises(ValueError, match=r"'blur' blurs must be at least 3 .*\(None, 3, "):
        layer(keras.Input(batch_shape=shape))
    layer(keras.Input(batch_shape=(None, 3, 3, 3)))
    layer(keras.Input(batch_shape=(None, 3, None, None) if first else (None, None, None, 3)))


def test_what_would_alias_is_gone():
    checks = np.indices((8, 8)).sum(0)[None, :, :, None] % 2 * 2.0 - 1
    assert np.all(np.asarray(MaxPooling2D(1, 2)(checks)) == -1)
    np.testing.assert_array_equal(BlurPool2D(2)(checks), np.zeros((1, 4, 4, 1)))


def test_a_blur_stands_after_the_activation_and_before_a_projection():
    model = net({"blur_pool": True})
    unit = "stage3_unit1"
    taken = {layer.name: layer.input for layer in model.layers if layer.name.startswith(unit)}

    def giver(name: str) -> str:
        return taken[f"{unit}_{name}"]._keras_history.operation.name

    assert giver("conv3") == f"{unit}_conv3_blur"
    assert giver("conv3_blur") == f"{unit}_act3"
    assert giver("shortcut") == f"{unit}_shortcut_blur"
    assert giver("shortcut_blur") == f"{unit}_act1"
    blurs = {layer.name for layer in model.layers if isinstance(layer, BlurPool2D)}
    assert blurs == {f"{unit}_conv3_blur", f"{unit}_shortcut_blur"}
    strides = {layer.strides for layer in model.layers if "_conv" in layer.name} - {(2, 2)}
    assert strides == {(1, 1)}


def test_max_pooling_is_dense_before_its_blur():
    model = net({"blur_pool": True, "stem": "imagenet"})
    assert model.get_layer("stem_pool").strides == (1, 1)
    assert model.get_layer("stem_pool_blur").strides == (2, 2)
    assert model.get_layer("stem_conv").strides == (2, 2)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_strides_of_the_maps_stay(changes):
    model, plain = net(changes), net({**changes, "blur_pool": False})
    strides = keras_preact.feature_extractor(model).strides
    assert strides == keras_preact.feature_extractor(plain).strides
    maps = keras_preact.feature_extractor(model)(X)
    assert {name: X.shape[1] // each.shape[1] for name, each in maps.items()} == strides


def _change_under_shifts(fields: dict[str, Any], weights: Any) -> float:
    """Change of the pooled features when the image moves by a pixel, relative to their size."""
    model = net(fields, input_shape=(32, 32, 3), include_top=False, pooling="avg")
    set_named_weights(model, weights)
    rng = np.random.default_rng(2)
    images = np.zeros((8, 32, 32, 3), "float32")
    images[:, 8:24, 8:24] = rng.standard_normal((8, 16, 16, 3))
    features = [scores(model, np.roll(images, shift, axis=(1, 2))) for shift in range(4)]
    spread = np.std(features, axis=0)
    return float(np.mean(spread) / np.mean(np.abs(features)))


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_a_shifted_image_changes_less(unit):
    fields = {"unit": unit, "strides": (2, 2)}
    weights = named_weights(net(fields, input_shape=(32, 32, 3), include_top=False))
    plain = _change_under_shifts(fields, weights)
    blurred = _change_under_shifts({**fields, "blur_pool": True}, weights)
    assert blurred < plain / 4


@pytest.mark.parametrize("layout", [{}, {"stride_unit": "last", "downsample": "subsample"}])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_dilation_computes_the_same_pixels_more_densely(unit, layout):
    # One pixel more than a multiple of the stride: both nets have their edges at the same pixels.
    options = {"input_shape": (33, 33, 3), "include_top": False}
    fields = {"blur_pool": True, "strides": (2, 2), "units": (2, 2), "unit": unit, **layout}
    coarse, dense = net(fields, **options), net({**fields, "output_stride": 1}, **options)
    set_named_weights(dense, named_weights(coarse))
    x = np.random.default_rng(3).standard_normal((1, 33, 33, 3)).astype("float32")
    maps = scores(coarse, x)
    scale = np.abs(maps).max()
    np.testing.assert_allclose(scores(dense, x)[:, ::4, ::4] / scale, maps / scale, atol=NET)


def test_folds():
    model = net({"blur_pool": True})
    folded = transforms.fold(model)
    np.testing.assert_allclose(scores(folded), scores(model), atol=NET)
    assert "stage3_unit1_norm3" not in {layer.name for layer in folded.layers}
