"""Frequent mistakes are refused with advice."""

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import PreActResNet20, feature_extractor

TINY = {"weights": None, "units": (1, 1, 1), "channels": (4, 4, 8), "stem_channels": 4}


def message(function):
    with pytest.raises(ValueError) as error:
        function()
    return str(error.value)


@pytest.mark.parametrize("options", [{"attention": "se"}, {"channels": (16, 32, 128)}], ids=str)
def test_published_weights_in_a_net_of_other_layers(options):
    said = message(lambda: PreActResNet20(weights="cifar10", **options))
    assert "does not hold the weights of" in said
    assert "The file has the layers of `PreActResNet20` as it was published" in said
    assert "`weights=None`" in said
    assert "install" not in said


def test_published_weights_for_other_classes():
    said = message(lambda: PreActResNet20(weights="cifar10", classes=6))
    assert "`classes` must be 10" in said
    assert "Received: classes=6" in said
    assert "keras_preact.transforms.replace_head(net, 6)" in said
    assert "`weights=None`" in said


@pytest.mark.parametrize("shape", [224, 224.0, (224, 224), (224, 224, 3, 1), "224", np.array(3)])
def test_what_is_no_shape(shape):
    said = message(lambda: PreActResNet20(input_shape=shape, **TINY))
    assert said.startswith("`input_shape` must have three dimensions, positive integers or None.")
    assert "Received: " in said


@pytest.mark.parametrize("stages", [3, np.int64(3), [], 3.5, [7], "3"])
def test_what_are_no_stages(stages):
    net = PreActResNet20(**TINY)
    said = message(lambda: feature_extractor(net, stages))
    assert said.startswith("`stages` must be a sequence of numbers of stages of")
    assert "(1, 2, 3, 4)" in said


@pytest.mark.parametrize(
    ("shape", "data_format", "right"),
    [
        ((3, 224, 224), "channels_last", (224, 224, 3)),
        ((3, 32, 40), "channels_last", (32, 40, 3)),
        ((1, 28, 28), "channels_last", (28, 28, 1)),
        ((224, 224, 3), "channels_first", (3, 224, 224)),
        ((28, 28, 1), "channels_first", (1, 28, 28)),
    ],
)
def test_an_image_in_the_other_order(shape, data_format, right):
    said = message(lambda: PreActResNet20(input_shape=shape, data_format=data_format, **TINY))
    other = {"channels_last", "channels_first"} - {data_format}
    assert f"expected {right}, or `data_format={other.pop()!r}`" in said
    assert str(shape) in said
    tensor = keras.Input(shape)
    options = {"input_tensor": tensor, "data_format": data_format, **TINY}
    of_tensor = said.replace("`input_shape`", "The shape of `input_tensor`")
    assert message(lambda: PreActResNet20(**options)) == of_tensor
    # A layer may have given maps of any shape.
    options["input_tensor"] = keras.layers.Activation("relu")(tensor)
    assert PreActResNet20(**options).input_shape == (None, *shape)


@pytest.mark.parametrize(
    "shape", [(1, 1000, 12), (4, 16, 16), (None, None, 3), (3, 3, 64), (32, 32, 128), (8, 8, 3)]
)
def test_odd_shapes_are_taken(shape):
    net = PreActResNet20(input_shape=shape, include_top=False, **TINY)
    assert net.input_shape == (None, *shape)


def test_channels_first_in_their_order():
    net = keras_preact.PreActResNet20(input_shape=(3, 40, 32), data_format="channels_first", **TINY)
    assert net.input_shape == (None, 3, 40, 32)
