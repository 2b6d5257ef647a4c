"""Nets whose backward pass computes norms and activations again, against nets that keep them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact import transforms
from keras_preact.layers import Activation, BatchNormalization, Conv2D
from keras_preact.ops.recomputation import source_of
from tests.nets import SMALL, net
from tests.numerics import LAYER, WIDE_NET, error, in_float64, tolerance

SIZE = (2, 8, 8, 3)
LABELS = np.eye(10)[[1, 3]]
# All norms, orders, kinds of unit, and steps between norm and convolution.
FORMS: dict[str, dict[str, Any]] = {
    "full_preactivation": {},
    "stacked": {"scan_units": True, "units": (1, 3)},
    "original": {"order": "original"},
    "bn_after_addition": {"order": "bn_after_addition"},
    "relu_before_addition": {"order": "relu_before_addition"},
    "relu_only_preactivation": {"order": "relu_only_preactivation"},
    "pyramid": {"order": "pyramid"},
    "group": {"norm": "group", "activation": "silu", "cardinality": 2},
    "stacked group": {"norm": "group", "scan_units": True, "units": (1, 3)},
    "layer": {"norm": "layer", "unit": "inverted_bottleneck"},
    "evonorm": {"norm": "evonorm_s0", "activation": "linear", "weight_standardization": True},
    "frn": {"norm": "frn", "activation": "linear", "spatial": "res2", "res2_scale": 2},
    "se": {"attention": "se", "dropout": 0.0, "projection_input": "raw", "use_bias": True},
}


def _pair(changes: dict[str, Any], **options: Any) -> Iterator[keras.Model]:
    for rematerialize in (False, "norms"):
        yield net(
            {"units": (1, 2), "rematerialize": rematerialize, **changes},
            input_shape=SIZE[1:],
            **options,
        )


def _step(model: keras.Model, graph: bool = False, **options: Any) -> dict[str, np.ndarray]:
    """Return outputs, gradients and weights of a step of training."""
    images = np.random.default_rng(2).standard_normal(SIZE).astype(model.compute_dtype)

    def step() -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = keras.losses.CategoricalCrossentropy()(LABELS, outputs)
        return outputs, tape.gradient(loss, [each.value for each in model.trainable_variables])

    outputs, gradients = (tf.function(step, **options) if graph else step)()
    names = [each.path for each in model.trainable_variables]
    results = {f"gradient of {name}": each for name, each in zip(names, gradients, strict=True)}
    results |= {each.path: each.value for each in model.weights}
    return {name: np.asarray(each) for name, each in {"outputs": outputs, **results}.items()}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_gradients_and_statistics_are_the_same(form):
    plain, lean = (_step(model) for model in _pair(FORMS[form], dtype="float64"))
    assert plain.keys() == lean.keys()
    for name, expected in plain.items():
        # Forty steps, each a sum of up to a thousand products. A few gradients are nothing but
        # rounding: of what the next norm takes away again.
        largest = max(abs(expected).max(), 1e-3)
        bound = largest * tolerance("float64", roundings=40, summed=40_000)
        np.testing.assert_allclose(lean[name], expected, rtol=0, atol=bound, err_msg=name)


def _chain(dtype: str, rematerialize: bool) -> list[Any]:
    return [
        BatchNormalization(rematerialize=rematerialize, dtype=dtype),
        Activation("relu", dtype=dtype),
        Conv2D(16, 3, use_bias=False, dtype=dtype),
    ]


@pytest.mark.numerical
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fused_kernels_against_float64(policy, jit_compile):
    rng = np.random.default_rng(0)
    lean = _chain(policy, rematerialize=True)
    dtype = lean[0].compute_dtype
    x = tf.cast(rng.standard_normal((2, 8, 8, 16)), dtype)
    upstream = tf.cast(rng.standard_normal((2, 8, 8, 16)), dtype)

    def gradients(layers: list[Any], dtype: str) -> list[Any]:
        maps = tf.cast(x, dtype)
        weights = [each.value for layer in layers for each in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = maps
            for layer in layers:
                outputs = layer(outputs, training=True)
        return tape.gradient(outputs, [maps, *weights], tf.cast(upstream, dtype))

    gradients(lean, dtype)
    lean[0].gamma.assign(rng.uniform(0.5, 1.5, 16))
    true = [in_float64(layer, x.shape) for layer in lean]
    received = tf.function(gradients, jit_compile=jit_compile)(lean, dtype)
    bound = tolerance(dtype, roundings=8, summed=16 * 9 + 2 * 8 * 8)
    for one, truth in zip(received, gradients(true, "float64"), strict=True):
        assert error(one, truth) < bound


def test_gradients_of_gradients():
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 6, 6, 8)), "float32")

    def twice(layers: list[Any]) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                maps = x
                for layer in layers:
                    maps = layer(maps, training=True)
                loss = tf.reduce_sum(tf.sin(maps))
            norm = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(norm, [x, layers[0].gamma.value, layers[2].kernel.value])

    plain, lean = (_chain("float32", each) for each in (False, True))
    for layers in (plain, lean):
        twice(layers)
    lean[2].set_weights(plain[2].get_weights())
    for expected, received in zip(twice(plain), tf.function(twice)(lean), strict=True):
        assert error(received, expected) < WIDE_NET


def test_frozen_norms_use_their_statistics():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((2, 6, 6, 8)), "float32")
    plain, lean = (_chain("float32", each) for each in (False, True))
    results = []
    for layers in (plain, lean):
        layers[0].build(x.shape)
        layers[0].trainable = False
        layers[2].build(x.shape)
        layers[2].set_weights(plain[2].get_weights())
        layers[0].moving_mean.assign(np.linspace(-1, 1, 8))
        with tf.GradientTape() as tape:
            tape.watch(x)
            maps = x
            for layer in layers:
                maps = layer(maps, training=True)
        results.append([maps, *tape.gradient(maps, [x, layers[2].kernel.value])])
        np.testing.assert_array_equal(layers[0].moving_variance, 1)
    for expected, received in zip(*results, strict=True):
        assert error(received, expected) < LAYER


def test_layers_and_their_outputs_stay():
    plain, lean = _pair({})
    assert [each.name for each in plain.layers[1:]] == [each.name for each in lean.layers[1:]]
    outputs = []
    for model in (plain, lean):
        names = ("stage2_unit1_norm1", "stage3_unit2_act1", "predictions")
        taps = keras.Model(model.input, [model.get_layer(name).output for name in names])
        outputs.append(taps(np.ones(SIZE, "float32"), training=True))
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_norms_have_a_source_and_only_in_training():
    (norm, act, conv), x = _chain("float32", rematerialize=True), tf.ones((1, 4, 4, 8))
    assert source_of(act(norm(x, training=True))) is not None
    assert source_of(act(norm(x))) is None
    assert source_of(act(x)) is None
    assert source_of(conv(act(norm(x, training=True)), training=True)) is None


@pytest.mark.parametrize("form", ["full_preactivation", "stacked group", "evonorm"])
def test_saving_and_transforms(tmp_path, form):
    plain, lean = _pair(FORMS[form])
    images = np.ones(SIZE, "float32")
    expected = lean(images)
    np.testing.assert_array_equal(plain(images), expected)
    lean.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again(images), expected)
    unrolled = transforms.unroll(again)
    norm = unrolled.get_layer("stage3_unit1_norm1")
    assert norm.rematerialize
    folded = transforms.fold(lean)
    assert not any(isinstance(each, BatchNormalization) for each in folded.layers)
    np.testing.assert_allclose(folded(images), expected, atol=WIDE_NET)


def test_fit_with_a_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = list(_pair({}))[1]
        model.compile("sgd", "categorical_crossentropy")
    images = np.ones(SIZE, "float32")
    before = model.get_weights()
    model.fit(images, LABELS, batch_size=2, verbose=0)
    assert all(np.any(one != other) for one, other in zip(before, model.get_weights(), strict=True))


def test_nets_without_norms_are_refused():
    with pytest.raises(
        ValueError, match=r"`rematerialize` must be True or False with `norm=\"none"
    ):
        SMALL.replace(norm="none", rematerialize="norms")


def test_renorm_is_refused():
    with pytest.raises(ValueError, match="`renorm`"):
        BatchNormalization(renorm=True, rematerialize=True)
