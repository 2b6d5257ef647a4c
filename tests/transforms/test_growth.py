"""A trained net's function in a deeper or wider one."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import transforms
from tests.nets import X, net, scores

Y = np.array([1, 2])


def _trained(changes: dict) -> keras.Model:
    """Return a net in which nothing is at its first value; every test reads the same one."""
    return _trained_once(tuple(sorted(changes.items())))


@functools.cache
def _trained_once(changes: tuple[tuple[str, object], ...]) -> keras.Model:
    model = net(dict(changes))
    _compile(model, 0.01)
    model.train_on_batch(X, Y)
    return model


def _compile(model: keras.Model, learning_rate: float) -> None:
    # A step or two pay for no graph.
    optimizer = keras.optimizers.SGD(learning_rate)
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)


def _new(changes: dict, **options) -> keras.Model:
    return net(changes, randomize=False, **options)


@pytest.mark.parametrize("order", ["full_preactivation", "original"])
@pytest.mark.parametrize(
    ("before", "after"), [(False, False), (False, True), (True, True)], ids=str
)
def test_deeper_nets_give_the_same_scores(order, before, after):
    model = _trained({"order": order, "scan_units": before})
    changes = {"order": order, "scan_units": after, "units": (3, 4)}
    deeper = transforms.deepen(model, _new(changes))
    np.testing.assert_allclose(scores(deeper), scores(model), atol=1e-5)


def test_new_units_learn():
    deeper = transforms.deepen(_trained({}), _new({"units": (3, 3)}))
    _compile(deeper, 0.1)
    layers = [deeper.get_layer(f"stage2_unit3_conv{index}") for index in (1, 2, 3)]
    before = [keras.ops.convert_to_numpy(layer.kernel) for layer in layers]
    assert not before[-1].any()
    for _ in range(2):
        deeper.train_on_batch(X, Y)
    for layer, old in zip(layers, before, strict=True):
        assert not np.array_equal(keras.ops.convert_to_numpy(layer.kernel), old), layer.name


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_wider_nets_give_the_same_scores(unit, scan):
    model = _trained({"unit": unit})
    changes = {"unit": unit, "scan_units": scan, "channels": (48, 96), "stem_channels": 24}
    wider = transforms.widen(model, _new(changes))
    np.testing.assert_allclose(scores(wider), scores(model), atol=1e-5)
    assert wider.count_params() > model.count_params()


def test_new_channels_differ_and_learn():
    wider = transforms.widen(_trained({}), _new({"channels": (48, 96)}))
    layer = wider.get_layer("stage2_unit2_conv3")
    before = keras.ops.convert_to_numpy(layer.kernel)
    new = before[0, 0, :, 32:]
    assert len(np.unique(new[0])) == 16
    _compile(wider, 0.1)
    # The first step moves the zeros that read the new channels, the second the channels.
    for _ in range(2):
        wider.train_on_batch(X, Y)
    assert not np.array_equal(keras.ops.convert_to_numpy(layer.kernel)[0, 0, :, 32:], new)


def test_deeper_and_wider_in_turn_on_a_published_net():
    small = {"input_shape": (32, 32, 3), "weights": None, "stem": "cifar", "classes": 5}
    # The published units, with fewer channels.
    model = keras_preact.PreActResNet18(stem_channels=16, channels=(16, 32, 64, 64), **small)
    widths = {"stem_channels": 24, "channels": (24, 48, 64, 64)}
    wider = keras_preact.PreActResNet18(**widths, **small)
    deeper = keras_preact.PreActResNet34(**widths, **small)
    grown = transforms.deepen(transforms.widen(model, wider), deeper)
    x = np.random.default_rng(2).standard_normal((2, 32, 32, 3))
    np.testing.assert_allclose(scores(grown, x), scores(model, x), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"shortcut": "scaling"}, {"order": "relu_before_addition", "shortcut": "shortcut_gating"}],
    ids=str,
)
def test_units_that_cannot_be_identities_are_refused(changes):
    deeper = _new({**changes, "units": (3, 3)})
    before = deeper.get_weights()
    with pytest.raises(ValueError, match="must hand `x` on as it is"):
        transforms.deepen(_trained(changes), deeper)
    for old, weight in zip(before, deeper.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weight)


@pytest.mark.parametrize("norm", [{"norm": "group"}, {"weight_standardization": True}], ids=str)
def test_channels_that_depend_on_one_another_are_refused(norm):
    wider = _new({**norm, "channels": (64, 128), "stem_channels": 32})
    with pytest.raises(ValueError, match="must leave the others alone"):
        transforms.widen(_trained(norm), wider)


def test_nets_that_differ_in_something_else_are_refused():
    model = net({})
    with pytest.raises(ValueError, match="without .'stage3_unit3"):
        transforms.deepen(model, net({"units": (3, 2)}))
    with pytest.raises(ValueError, match="must have the same shapes"):
        transforms.deepen(model, net({"units": (3, 3), "channels": (48, 96)}))
    with pytest.raises(ValueError, match="Only one of them has"):
        transforms.widen(model, net({"units": (3, 3), "channels": (48, 96)}))
    with pytest.raises(ValueError, match="but for more channels"):
        transforms.widen(model, net({"channels": (24, 64)}))
    with pytest.raises(ValueError, match=r"must be the same.*more layers than|same shapes"):
        transforms.deepen(net({"unit": "basic"}), net({"units": (2, 4)}))
