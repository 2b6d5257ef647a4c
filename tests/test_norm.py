"""The fused batch normalization against Keras's in float64."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact.layers import BatchNormalization
from tests.numerics import float64, tolerance

pytestmark = pytest.mark.numerical

CHANNELS = 5
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
# Sums over the pixels of a batch, and some steps from them to a number.
IN_FLOAT32 = tolerance(summed=6 * 4 * 7, roundings=8)


def _tolerance(policy: str) -> float:
    """Of maps in a policy's dtype: XLA may round the normalized maps before they are scaled."""
    return IN_FLOAT32 + tolerance(keras.dtype_policies.get(policy).compute_dtype, roundings=2)


def _pair(policy: str, axis: int = -1, **options):
    """Our layer, and Keras's with the same weights in float64."""
    layers = [
        cls(axis=axis, momentum=0.8, epsilon=1e-5, dtype=dtype, **options)
        for cls, dtype in (
            (BatchNormalization, policy),
            (keras.layers.BatchNormalization, "float64"),
        )
    ]
    rng = np.random.default_rng(1)
    shape = [None] * 4
    shape[axis] = CHANNELS
    for layer in layers:
        layer.build(tuple(shape))
    weights = [rng.uniform(0.5, 1.5, w.shape).astype("float32") for w in layers[0].weights]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def _inputs(policy: str, axis: int = -1):
    rng = np.random.default_rng(2)
    shape = [6, 4, 7]
    shape.insert(axis % 4, CHANNELS)
    x = (3 * rng.standard_normal(shape) + 1).astype("float32")
    seed = rng.standard_normal(shape).astype("float32")
    dtype = keras.dtype_policies.get(policy).compute_dtype
    return tf.cast(x, dtype), tf.cast(seed, dtype)


def _step(layer, x, weight, jit_compile):
    """Return outputs and the gradients of input, scale and shift, of one step in training."""

    @tf.function(jit_compile=jit_compile)
    def step(x, weight):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            dtype = "float64" if y.dtype == tf.float64 else "float32"
            loss = tf.reduce_sum(tf.cast(y, dtype) * tf.cast(weight, dtype))
        variables = [variable.value for variable in layer.trainable_variables]
        return y, *tape.gradient(loss, [x, *variables])

    return step(x, weight)


def _assert_close(ours, truth, tolerance):
    for one, other in zip(ours, truth, strict=True):
        one, other = float64(one), float64(other)
        np.testing.assert_allclose(
            one, other, rtol=0, atol=tolerance * max(1.0, np.abs(other).max())
        )


def _float64(*values):
    return [tf.constant(float64(each)) for each in values]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("axis", [-1, 1], ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("policy", POLICIES)
def test_training_equals_keras(policy, axis, jit_compile):
    ours, theirs = _pair(policy, axis)
    x, weight = _inputs(policy, axis)
    received = _step(ours, x, weight, jit_compile)
    truth = _step(theirs, *_float64(x, weight), False)
    _assert_close(received[:2], truth[:2], _tolerance(policy))
    # Of scale and shift: float32 whatever the policy.
    _assert_close(received[2:], truth[2:], IN_FLOAT32)
    assert [each.dtype for each in received] == [x.dtype, x.dtype, "float32", "float32"]
    _assert_close(ours.non_trainable_variables, theirs.non_trainable_variables, IN_FLOAT32)


@pytest.mark.parametrize("axis", [-1, 1], ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("policy", POLICIES)
def test_inference_equals_keras(policy, axis):
    ours, theirs = _pair(policy, axis)
    x, _ = _inputs(policy, axis)
    before = [np.array(w) for w in ours.get_weights()]
    _assert_close([ours(x)], [theirs(*_float64(x))], _tolerance(policy))
    for old, new in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}])
def test_without_scale_or_shift(options):
    ours, theirs = _pair("float32", **options)
    x, weight = _inputs("float32")
    truth = _step(theirs, *_float64(x, weight), False)
    _assert_close(_step(ours, x, weight, False), truth, IN_FLOAT32)


def test_frozen_norm_keeps_its_statistics():
    ours, theirs = _pair("float32")
    ours.trainable = theirs.trainable = False
    x, _ = _inputs("float32")
    before = [np.array(w) for w in ours.get_weights()]
    truth = theirs(*_float64(x), training=True)
    _assert_close([ours(x, training=True)], [truth], IN_FLOAT32)
    for old, new in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def _node_types(layer, x) -> set[str]:
    function = tf.function(lambda x: layer(x, training=True)).get_concrete_function(x)
    return {operation.type for operation in function.graph.get_operations()}


@pytest.mark.parametrize("policy", POLICIES)
def test_one_fused_kernel_where_it_fits(policy):
    ours, _ = _pair(policy)
    assert "FusedBatchNormV3" in _node_types(ours, _inputs(policy)[0])


@pytest.mark.skipif(bool(tf.config.list_logical_devices("GPU")), reason="what a CPU never reads")
def test_training_keeps_no_reserve_on_a_cpu():
    layer, _ = _pair("float32")

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
        return tape.gradient(y, layer.gamma.value, x)

    graph = step.get_concrete_function(tf.TensorSpec((2, 4, 4, CHANNELS))).graph
    (norm,) = (each for each in graph.get_operations() if each.type == "FusedBatchNormV3")
    *kept, dropped = norm.outputs[3:]
    assert all(each.consumers() for each in kept) and not dropped.consumers()


def test_portable_path_where_no_kernel_fits():
    ours, _ = _pair("float32", axis=1)
    assert "FusedBatchNormV3" not in _node_types(ours, _inputs("float32", axis=1)[0])
    vectors = BatchNormalization()
    assert "FusedBatchNormV3" not in _node_types(vectors, tf.ones((3, CHANNELS)))


def test_config_round_trip():
    ours, _ = _pair("float32")
    copy = keras.layers.deserialize(keras.layers.serialize(ours))
    assert type(copy) is BatchNormalization
    assert copy.get_config() == ours.get_config()


def test_keras_before_3_14_knows_no_renorm(monkeypatch):
    construct = keras.layers.BatchNormalization.__init__
    theirs = keras.layers.BatchNormalization(dtype="float64")

    def without(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        vars(self).pop("renorm", None)

    monkeypatch.setattr(keras.layers.BatchNormalization, "__init__", without)
    ours = BatchNormalization(rematerialize=True)
    x, _ = _inputs("float32")
    for training in (True, False):
        _assert_close(
            [ours(x, training=training)], [theirs(*_float64(x), training=training)], IN_FLOAT32
        )
