"""A trained net's function in a deeper or wider one."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import transforms
from keras_preact.transforms import growth
from keras_preact.weights import named_weights
from tests.nets import SMALL, TINY, X, net, scores

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


NORM_FREE = {"norm": "none", "weight_standardization": "scaled"}


@pytest.mark.parametrize(
    ("changes", "zeroed"),
    [
        ({}, ["conv2/kernel"]),
        ({"order": "original"}, ["norm3/beta", "norm3/gamma"]),
        ({"norm": "none", "residual_scaling": "skip_init"}, ["skip_init/gain"]),
        ({**NORM_FREE, "use_bias": True}, ["conv2/bias", "conv2/gain"]),
        ({**NORM_FREE, "residual_scaling": "skip_init"}, ["skip_init/gain"]),
    ],
    ids=str,
)
def test_new_units_learn(changes, zeroed):
    # With biases other than zero, too.
    new = net({**changes, "units": (2, 1)}, architecture=TINY)
    deeper = transforms.deepen(net(changes, architecture=TINY), new)
    _compile(deeper, 0.1)
    unit = "stage2_unit2_"
    weights = [each for each in deeper.trainable_variables if each.path.startswith(unit)]
    before = [keras.ops.convert_to_numpy(weight) for weight in weights]
    zeros = [each.path for each, old in zip(weights, before, strict=True) if not old.any()]
    assert sorted(zeros) == [f"{unit}{name}" for name in zeroed]
    # The first step moves the factor that is zero, the second the others.
    for _ in range(2):
        deeper.train_on_batch(X, Y)
    for weight, old in zip(weights, before, strict=True):
        assert not np.array_equal(keras.ops.convert_to_numpy(weight), old), weight.path


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("unit", ["basic", "bottleneck", "inverted_bottleneck"])
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


@pytest.mark.parametrize("scan", [False, True])
def test_new_channels_of_depthwise_convolutions_learn(scan):
    changes = {"unit": "inverted_bottleneck", "scan_units": scan}
    wider = transforms.widen(_trained(changes), _new({**changes, "channels": (48, 96)}))
    _compile(wider, 0.1)

    def new() -> np.ndarray:
        """Return the kernels of the new channels."""
        inside = int(64 * SMALL.expansion)
        return named_weights(wider)["stage3_unit2_conv2"]["0"][:, :, inside:, 0]

    before = new()
    assert before.any(axis=(0, 1)).all()
    for _ in range(2):
        wider.train_on_batch(X, Y)
    # A ReLU shuts some out.
    assert (new() != before).any(axis=(0, 1)).mean() > 0.5


def test_a_model_that_augments_grows():
    """The functions are compared in inference; Keras's augmentation trains else."""
    augment = keras.layers.RandomBrightness(1.0, value_range=(-1, 1))
    models = [
        keras.Sequential([keras.Input(X.shape[1:]), augment, net(architecture=TINY, **options)])
        for options in ({"name": "net"}, {"changes": {"units": (2, 1)}, "name": "net"})
    ]
    deeper = transforms.deepen(*models)
    np.testing.assert_allclose(
        *(each(X, training=False) for each in (deeper, models[0])), atol=1e-5
    )


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
    for other in ({"use_bias": True}, {"norm": "layer"}):
        with pytest.raises(ValueError, match="must have the same weights but for more channels"):
            transforms.widen(model, net({**other, "channels": (48, 96)}))


def _check_as_it_was(deeper: keras.Model, model: keras.Model, error: type, match: str) -> None:
    before = deeper.get_weights()
    with pytest.raises(error, match=match):
        transforms.deepen(model, deeper)
    for old, weight in zip(before, deeper.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weight)


def test_a_net_that_is_refused_is_as_it_was(monkeypatch):
    tiny = {"architecture": TINY, "include_top": False}
    model, units = net(**tiny), {"units": (2, 1)}
    coarse = net({**units, "strides": (1, 4)}, **tiny)
    _check_as_it_was(coarse, model, ValueError, r"outputs of the same shapes .*\(1, 4, 4, 16\)")
    large = net(units, **tiny, input_shape=(32, 32, 3))
    _check_as_it_was(large, model, ValueError, r"take the images of .*\(16, 16, 3\).*\(32, 32, 3\)")
    # Of any size are those of that size, too.
    free = net(units, **tiny, input_shape=(None, None, 3))
    np.testing.assert_allclose(scores(transforms.deepen(model, free)), scores(model), atol=1e-5)

    def interrupted(*arguments: object) -> float:
        raise KeyboardInterrupt("Ctrl-C")

    monkeypatch.setattr(growth, "_difference", interrupted)
    adapted = net(units, **tiny)
    adapted.get_layer("stem_conv").enable_lora(2)
    _check_as_it_was(adapted, model, KeyboardInterrupt, "Ctrl-C")


def test_the_nets_own_precision_decides_what_is_rounding():
    changes = {"shortcut": "scaling", "shortcut_scale": 0.99}
    options = {"architecture": TINY, "classifier_activation": None, "dtype": "float32"}
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, deeper = (net({**changes, "units": (n, 1)}, **options) for n in (2, 3))
        _check_as_it_was(deeper, model, ValueError, r"differ by 0.0\d* of the largest")
    finally:
        keras.config.set_dtype_policy(policy)
