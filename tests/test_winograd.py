"""Winograd's algorithm, against Keras's convolution."""

import keras
import numpy as np
import pytest

from keras_preact import Architecture, PreActResNet, PreActResNet18, transforms
from keras_preact.layers import WinogradConv2D
from keras_preact.layers.winograd import transformed_kernel, winograd

RNG = np.random.default_rng(0)


def arrays(height, width, channels, filters, batch=3):
    maps = RNG.normal(size=(batch, height, width, channels)).astype("float32")
    kernel = RNG.normal(size=(3, 3, channels, filters)).astype("float32")
    return maps, kernel / np.sqrt(9 * channels).astype("float32")


@pytest.mark.parametrize("height, width", [(12, 16), (14, 14), (13, 7), (1, 5)])
def test_equals_the_convolution(height, width):
    maps, kernel = arrays(height, width, channels=5, filters=6)
    expected = keras.ops.conv(maps, kernel, padding="same")
    received = winograd(keras.ops.convert_to_tensor(maps), transformed_kernel(kernel))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(received), keras.ops.convert_to_numpy(expected), atol=2e-5
    )


def net(size=224):
    """Its third stage has 128 channels on maps of an eighth of the size, the fourth 256 on half."""
    keras.utils.set_random_seed(0)
    return transforms.fold(PreActResNet18(weights=None, input_shape=(size, size, 3), classes=10))


def replaced(model):
    return [layer.name for layer in model.layers if isinstance(layer, WinogradConv2D)]


def test_a_net_with_it_gives_the_same(tmp_path):
    folded = net()
    other = transforms.winograd(folded)
    # Not those of stride 2, of 64 channels, or on maps of 7x7.
    assert replaced(other) == [
        *(f"stage3_unit{unit}" for unit in ("1_conv2", "2_conv1", "2_conv2")),
        *(f"stage4_unit{unit}" for unit in ("1_conv2", "2_conv1", "2_conv2")),
    ]
    assert [layer.name for layer in other.layers] == [layer.name for layer in folded.layers]
    images = RNG.normal(size=(2, 224, 224, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(folded(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(other(images)), expected, atol=1e-5)
    other.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loaded(images)), expected, atol=1e-5)


@pytest.mark.parametrize("size", [None, 64])
def test_a_net_without_such_convolutions_is_refused(size):
    with pytest.raises(ValueError, match="has no convolution that Winograd's algorithm makes fast"):
        transforms.winograd(net(size))


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
    scores = []
    for on in (False, True):
        path = tmp_path / str(on)
        export_savedmodel(
            model,
            path,
            preprocessing=Preprocessing(input_size=16),
            winograd=on,
            warm_up_batch_sizes=(),
        )
        loaded = tf.saved_model.load(path)
        scores.append(loaded.signatures["serving_default"](images=images)["probabilities"])
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
