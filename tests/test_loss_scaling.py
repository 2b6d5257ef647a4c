"""`compile` scales the loss of nets that compute in float16, in whatever way they were built."""

from __future__ import annotations

import keras
import pytest

from keras_preact import (
    feature_extractor,
    from_config_folder,
    preprocessing,
    to_config_folder,
    transforms,
)
from tests.nets import TINY, net

# Two alike, to be stacked.
ARCHITECTURE = TINY.replace(units=(1, 3))


def _scales(model):
    model.compile("sgd", "mse")
    return isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.fixture(scope="module")
def half():
    return net(architecture=ARCHITECTURE, input_shape=(32, 32, 3), dtype="mixed_float16")


@pytest.mark.parametrize(
    "transform",
    [
        lambda model: model,
        lambda model: transforms.replace_head(model, 3),
        lambda model: transforms.resize_input(model, 24, 24),
        lambda model: transforms.adapt_input_channels(model, 1),
        transforms.stack,
        feature_extractor,
        lambda model: transforms.feature_pyramid(model, 4),
    ],
    ids=["net", "head", "size", "channels", "stack", "feature_extractor", "feature_pyramid"],
)
def test_nets_in_float16_and_what_is_made_of_them(half, transform):
    assert _scales(transform(half))


def test_by_the_layers_themselves(half):
    plain = net(architecture=ARCHITECTURE)
    assert not _scales(plain)
    assert not _scales(net(architecture=ARCHITECTURE, dtype="mixed_bfloat16"))
    assert not _scales(transforms.with_dtype(half, "float32"))
    assert _scales(transforms.with_dtype(plain, "mixed_float16"))


def test_a_saved_model_goes_on_with_an_optimizer_that_scales(half, tmp_path):
    half.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    half.optimizer.build(half.trainable_variables)
    half.optimizer.iterations.assign(4)
    half.save(tmp_path / "net.keras")
    optimizer = keras.models.load_model(tmp_path / "net.keras").optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)
    assert int(optimizer.iterations) == 4


def test_of_a_folder(half, tmp_path):
    to_config_folder(half, tmp_path / "net", preprocessing.CIFAR10)
    assert _scales(from_config_folder(tmp_path / "net"))
