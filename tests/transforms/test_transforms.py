"""Stacked units into separate ones, and back."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Architecture
from keras_preact.blocks import nesting
from keras_preact.layers import DropPath, Rematerialized, StackedUnits
from keras_preact.transforms import fold, stack, unroll
from tests.nets import net

TINY = Architecture(
    units=(1, 4),
    channels=(8, 16),
    strides=(1, 2),
    stem="cifar",
    stem_channels=8,
    scan_units=True,
)
X = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype("float32")
LAST = "stage3_unit2to4"


def _net(**changes) -> keras.Model:
    """Return a net whose moving statistics are not those of a new one."""
    model = keras_preact.PreActResNet(TINY.replace(**changes), classes=4, input_shape=(16, 16, 3))
    rng = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(variable + rng.uniform(0.0, 0.3, variable.shape))
    return model


def _channels_first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"units": (1, 4, 3), "channels": (8, 16, 32), "strides": (1, 2, 2)},
        {"unit": "basic"},
        {"dropout": 0.1, "drop_path": 0.3},
        {"rematerialize": True},
        {"stride_unit": "last", "downsample": "subsample"},
    ],
    ids=str,
)
def test_there_and_back(changes):
    model = _net(**changes)
    separate = unroll(model)
    again = stack(separate)
    assert not any(isinstance(layer, StackedUnits) for layer in separate.layers)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert model.count_params() == separate.count_params() == again.count_params()
    for copy in (separate, again):
        np.testing.assert_allclose(copy(X), model(X), atol=1e-5)
    for one, other in zip(model.weights, again.weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(one, other)


def test_separate_units_are_those_of_the_builder():
    expected = keras_preact.PreActResNet(
        TINY.replace(scan_units=False, drop_path=0.3), classes=4, input_shape=(16, 16, 3)
    )
    separate = unroll(_net(drop_path=0.3))
    names = [{layer.name for layer in model.layers[1:]} for model in (expected, separate)]
    assert names[0] == names[1]
    for layer in expected.layers:
        if isinstance(layer, DropPath):
            assert separate.get_layer(layer.name).rate == pytest.approx(layer.rate)


def test_rematerialised_units_stay_so():
    separate = unroll(_net(rematerialize=True))
    assert isinstance(separate.get_layer("stage3_unit4"), Rematerialized)
    assert stack(separate).get_layer("stage3_unit2to4").rematerialize


def test_channels_first():
    model = keras_preact.PreActResNet(
        TINY, classes=4, input_shape=(3, 16, 16), data_format="channels_first"
    )
    separate = unroll(model)
    for copy in (separate, stack(separate)):
        np.testing.assert_allclose(copy(_channels_first(X)), model(_channels_first(X)), atol=1e-5)


def test_nested_units_are_stacked():
    model = net(nested=True)
    stacked = stack(model)
    assert isinstance(stacked.get_layer("stage3_unit2to3"), StackedUnits)
    np.testing.assert_allclose(stacked(X), model(X), atol=1e-5)


def test_folded_units_are_stacked():
    model = fold(net())
    stacked = stack(model)
    assert isinstance(stacked.get_layer("stage3_unit2to3"), StackedUnits)
    np.testing.assert_allclose(stacked(X), model(X), atol=1e-5)


def test_units_too_many_to_walk_become_nested_models(monkeypatch):
    # test_stacked_units has as many as Keras indeed cannot walk.
    monkeypatch.setattr(nesting, "DEEPEST_GRAPH", 30)
    # Three steps of Keras's walk per unit.
    model = _net(units=(1, 12), unit="basic", norm="none", order="original", shortcut="scaling")
    separate = unroll(model)
    assert isinstance(separate.get_layer("stage3_unit12"), keras.Model)
    np.testing.assert_allclose(separate(X), model(X), rtol=1e-5)
    last = model.get_layer("stage3_unit2to12").get_weights()[0][-1]
    received = separate.get_layer("stage3_unit12").get_weights()[0]
    np.testing.assert_array_equal(received, last)


def test_copies_have_weights_of_their_own():
    model = _net()
    before = np.asarray(model(X))
    separate = unroll(model)
    for weight in separate.weights:
        weight.assign(weight + 1)
    np.testing.assert_array_equal(model(X), before)


def test_features_and_other_heads_come_along():
    features = keras_preact.feature_extractor(_net(), stages=(2, 3))
    separate = unroll(features)
    assert separate.strides == features.strides
    for name, expected in features(X).items():
        np.testing.assert_allclose(separate(X)[name], expected, atol=1e-5)
    net = _net()
    raw = keras.Model(net.input, [net.get_layer(LAST).output, net.output])
    for one, other in zip(raw(X), unroll(raw)(X), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_units_that_differ():
    separate = unroll(_net())
    config = separate.get_config()
    for layer in config["layers"]:
        if layer["name"] == "stage3_unit3_act2":
            layer["config"]["activation"] = "tanh"
    with pytest.raises(ValueError, match="`stage3_unit3` and `stage3_unit2` differ"):
        stack(keras.Model.from_config(config))


def test_nothing_to_stack():
    with pytest.raises(ValueError, match="no stage with three or more separate units"):
        stack(_net())


@pytest.mark.parametrize("transform", [stack, unroll])
def test_not_a_functional_model(transform):
    with pytest.raises(ValueError, match="must be a functional Keras model. Received: 'net'"):
        transform("net")


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("rematerialize", [False, True])
def test_a_file_of_one_form_loads_into_the_other(tmp_path, suffix, rematerialize):
    model = _net()
    path = tmp_path / f"net{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    separate = keras_preact.PreActResNet(
        TINY.replace(scan_units=False, rematerialize=rematerialize),
        classes=4,
        input_shape=(16, 16, 3),
        weights=path,
    )
    np.testing.assert_allclose(separate(X), model(X), atol=1e-5)
    (separate.save if suffix == ".keras" else separate.save_weights)(path)
    again = keras_preact.PreActResNet(TINY, classes=4, input_shape=(16, 16, 3), weights=path)
    np.testing.assert_allclose(again(X), model(X), atol=1e-5)


def test_keras_own_loading_says_which_transform_to_use(tmp_path):
    unroll(_net()).save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ValueError, match="transforms.stack"):
        _net().load_weights(tmp_path / "net.weights.h5")
