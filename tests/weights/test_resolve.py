"""Values that `weights=` accepts, and its messages about the others."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest

import keras_preact
from tests.nets import images, scores
from tests.weights.conftest import BUILDER, NAME

EXISTING = r"For PreActResNet50 there are \['timm/resnetv2_50.a1h_in1k', 'keras_hub/"


@pytest.fixture(autouse=True)
def no_download(cache):
    """Empty the cache, so that a test that downloads fails, and check that none has tried."""
    yield
    assert not (cache / "timm").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 10}, "`classes` must be 1000, as 'timm/.*`weights=None`.* classes=10"),
        ({"weights": "imagnet"}, f"Received: 'imagnet'. Did you mean 'imagenet'.* {EXISTING}"),
        ({"weights": "resnetv2_50.a1h"}, "Did you mean 'timm/resnetv2_50.a1h_in1k'"),
        (
            {"weights": "timm/resnetv2_101.a1h_in1k"},
            f"fits `PreActResNet101`, not `PreActResNet50`. {EXISTING}",
        ),
        ({"weights": 50}, "`weights` must be None, a name or a path. Received: 50"),
        ({"weights": "net.pth"}, "'net.pth' is, by its name, a pickle.*safetensors"),
        ({"weights": "pytorch_model.bin"}, "a pickle"),
        ({"weights": "net.weights.h5"}, "`weights` names no file: 'net.weights.h5'"),
        ({"weights": "gone.safetensors"}, "`weights` names no file: 'gone.safetensors'"),
    ],
)
def test_what_does_not_exist_or_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_preact.PreActResNet50(**arguments)


def test_a_path_that_ends_otherwise(tmp_path):
    with pytest.raises(ValueError, match=r"ends in one of \.weights\.h5, \.keras, .*onnx'"):
        keras_preact.PreActResNet50(weights=tmp_path / "net.onnx")


def test_imagenet_for_a_net_that_has_none():
    with pytest.raises(ValueError, match="ImageNet-1k for PreActResNet56, .* There are none"):
        keras_preact.PreActResNet56(weights="imagenet")
    with pytest.raises(ValueError, match="ImageNet-1k for a net of its own architecture"):
        keras_preact.PreActResNet(BUILDER.architecture, weights="imagenet")


def test_weights_that_see_other_pixels_go_by_their_names():
    with pytest.raises(
        ValueError, match=r"`preprocess_input` makes them. .*'timm/nf_resnet50\.ra2"
    ):
        keras_preact.NFPreActResNet50(weights="imagenet")


def test_classes_must_be_those_of_the_entry(entry):
    with pytest.raises(ValueError, match=f"`weights='{NAME}'.*must be 10, .* classes=11"):
        BUILDER(weights=NAME, classes=11)
    # Without the top there are none.
    BUILDER(weights=NAME, classes=11, include_top=False)


def test_without_the_top_its_weights_are_left_out(entry, net):
    features = BUILDER(weights=NAME, include_top=False)
    assert len(features.weights) == len(net.weights) - 2
    norm = features.get_layer("head_norm")
    assert norm.gamma.shape == (64,)


@pytest.mark.parametrize(
    "options",
    [
        {"drop_path": 0.2, "dropout": 0.1},
        {"scan_units": True},
        {"scan_units": True, "rematerialize": True, "drop_path": 0.1},
        {"zero_init_residual": True},
        {"data_format": "channels_first", "input_shape": (3, 32, 32)},
        {"dtype": "mixed_bfloat16"},
        {"input_shape": (64, 48, 3), "classifier_activation": None},
    ],
    ids=lambda options: ",".join(options),
)
def test_options_that_change_no_weight_keep_it(entry, net, options):
    ours = keras_preact.weights.named_weights(BUILDER(weights=NAME, **options))
    expected = keras_preact.weights.named_weights(net)
    assert ours.keys() == expected.keys()
    for layer, arrays in expected.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(ours[layer][key], array)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_published_weights_fit_images_of_another_number_of_channels(entry, net, data_format):
    shape = {"channels_last": (32, 32, 4), "channels_first": (4, 32, 32)}[data_format]
    model = BUILDER(weights=NAME, input_shape=shape, data_format=data_format)
    ours, theirs = (keras_preact.weights.named_weights(each) for each in (model, net))
    kernel = theirs["stem_conv"]["0"]
    np.testing.assert_allclose(ours["stem_conv"]["0"][:, :, 3], 0.75 * kernel[:, :, 0], atol=1e-6)
    np.testing.assert_array_equal(ours["head_norm"]["0"], theirs["head_norm"]["0"])


def test_options_that_change_the_weights_are_refused(entry):
    with pytest.raises(ValueError, match=f"'{NAME}', in .* does not hold the weights of"):
        BUILDER(weights=NAME, stem_channels=32)


def test_a_net_of_its_own_architecture_takes_a_full_name(entry, net):
    model = keras_preact.PreActResNet(BUILDER.architecture, weights=NAME, classes=10)
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(model(x), net(x), rtol=1e-5)


def test_a_file_with_the_top_loads_into_a_net_without(net, net_file):
    model = BUILDER(weights=net_file, include_top=False)
    kernel = "stage2_unit1_conv1"
    np.testing.assert_array_equal(model.get_layer(kernel).kernel, net.get_layer(kernel).kernel)


def test_layers_before_a_net_keep_their_weights(entry, net, net_file):
    norm = keras.layers.Normalization(name="adapted")
    norm.adapt(images(4, 32, 32, 3, seed=1) * 3 + 1)
    x = images(2, 32, 32, 3)
    for weights in (entry.name, net_file):
        model = BUILDER(weights=weights, input_tensor=norm(keras.Input((32, 32, 3))))
        np.testing.assert_allclose(scores(model, x), scores(net, norm(x)), atol=1e-6)


def test_a_path_may_be_text(net_file):
    BUILDER(weights=os.fspath(net_file))
