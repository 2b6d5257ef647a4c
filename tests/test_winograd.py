"""Winograd's algorithm, against Keras's convolution in float64."""

import keras
import numpy as np
import pytest

from keras_preact import Architecture, PreActResNet, transforms
from keras_preact.layers import WinogradConv2D
from keras_preact.ops.winograd import transformed_kernel, winograd
from tests.numerics import WINOGRAD_AMPLIFICATION, error, float64, tolerance

pytestmark = pytest.mark.numerical

RNG = np.random.default_rng(0)


def arrays(height, width, channels, filters, batch=3):
    maps = RNG.normal(size=(batch, height, width, channels)).astype("float32")
    kernel = RNG.normal(size=(3, 3, channels, filters)).astype("float32")
    return maps, kernel / np.sqrt(9 * channels).astype("float32")


@pytest.mark.parametrize("height, width", [(12, 16), (14, 14), (13, 7), (1, 5)])
def test_equals_the_convolution(height, width):
    maps, kernel = arrays(height, width, channels=5, filters=6)
    truth = keras.ops.conv(float64(maps), float64(kernel), padding="same")
    received = winograd(keras.ops.convert_to_tensor(maps), transformed_kernel(kernel))
    assert error(received, truth) <= WINOGRAD_AMPLIFICATION * tolerance(summed=9 * 5)


def net(size=56, units=2):
    """Return a net with 128 channels on a quarter of the size, and on an eighth."""
    keras.utils.set_random_seed(0)
    architecture = Architecture(
        unit="basic",
        units=(1, units, 1),
        channels=(64, 128, 128),
        strides=(2, 2, 2),
        stem="cifar",
        stem_channels=16,
    )
    model = PreActResNet(architecture, input_shape=(size, size, 3), classes=10)
    return transforms.fold(model)


def replaced(model):
    return [layer.name for layer in model.layers if isinstance(layer, WinogradConv2D)]


def test_a_net_with_it_gives_the_same(tmp_path):
    folded = net()
    other = transforms.winograd(folded)
    # Not those of stride 2, of 64 channels, or on maps of 7x7.
    assert replaced(other) == [f"stage3_unit{each}" for each in ("1_conv2", "2_conv1", "2_conv2")]
    assert [layer.name for layer in other.layers] == [layer.name for layer in folded.layers]
    images = RNG.normal(size=(2, 56, 56, 3)).astype("float32")
    truth = transforms.with_dtype(folded, "float64")(float64(images))
    # Three convolutions one after the other, whose errors add up at worst.
    allowed = 3 * WINOGRAD_AMPLIFICATION * tolerance(summed=9 * 128)
    assert error(other(images), truth) <= allowed
    other.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert error(loaded(images), truth) <= allowed


@pytest.mark.parametrize("size", [None, 16])
def test_a_net_without_such_convolutions_is_refused(size):
    with pytest.raises(ValueError, match="has no convolution that Winograd's algorithm makes fast"):
        transforms.winograd(net(size, units=1))


def test_maps_of_an_unknown_size_are_refused():
    with pytest.raises(ValueError, match=r"known size. Received: .*\(None, None, 14, 8\)"):
        WinogradConv2D(8).build((None, None, 14, 8))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")
def test_an_export_with_it_gives_the_same(tmp_path):
    import tensorflow as tf

    from keras_preact import export_savedmodel
    from keras_preact.preprocessing import Preprocessing

    architecture = Architecture(
        unit="basic", units=(1,), channels=(128,), strides=(1,), stem="cifar", stem_channels=128
    )
    model = PreActResNet(architecture, input_shape=(16, 16, 3), classes=10)
    assert len(replaced(transforms.winograd(transforms.fold(model)))) == 2
    images = RNG.uniform(0, 255, size=(3, 16, 16, 3)).astype("float32")
    preprocessing = Preprocessing(input_size=16)
    export_savedmodel(
        model,
        tmp_path / "net",
        preprocessing=preprocessing,
        winograd=True,
        warm_up_batch_sizes=(),
    )
    loaded = tf.saved_model.load(tmp_path / "net")
    received = loaded.signatures["serving_default"](images=images)["probabilities"]
    in_float64 = transforms.with_dtype(transforms.fold(model), "float64")
    truth = in_float64(float64(preprocessing.normalize(images)))
    assert error(received, truth) <= 2 * WINOGRAD_AMPLIFICATION * tolerance(summed=9 * 128)
