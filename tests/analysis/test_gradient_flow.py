"""Gradients and signals unit by unit, against the whole net's and against closed forms."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from keras_preact.analysis import (
    draw_gradient_flow,
    draw_signal_propagation,
    grad_cam,
    gradient_flow,
    path_gradients,
    scores_with_order,
    scores_without,
    sharpness,
    signal_propagation,
    take_apart,
)
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import SMALL, TINY, X, net, scores
from tests.numerics import WIDE_NET

Y = np.array([1, 2])
# Nets whose units are put together differently: projections that share the first activation,
# steps after the addition, gates, scaled shortcuts, nested and stacked units, layers called twice.
NETS = {
    "full_preactivation": {},
    "original": {"order": "original"},
    "gated": {"order": "original", "shortcut": "exclusive_gating"},
    "stacked": {"scan_units": True},
    "nested": {"rematerialize": True},
    "attention": {"attention": "cbam"},
}


def _assert_a_chain(model):
    chain = take_apart(model)
    assert [unit.name for unit in chain.units] == [
        unit.name for units in SMALL.stages.values() for unit in units
    ]
    x = chain.stem(X)
    for unit in chain.units:
        x = unit(x)
    np.testing.assert_allclose(scores(chain.head, x), scores(model), atol=1e-5)


@pytest.mark.parametrize("changes", NETS.values(), ids=NETS)
def test_the_units_in_a_row_are_the_net(changes):
    _assert_a_chain(net(changes))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("order", ["full_preactivation", "original"])
def test_a_deep_net_whose_units_are_models_is_taken_apart(order, nested):
    _assert_a_chain(net({"order": order, "scan_units": not nested}, nested=nested))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a TensorFlow tape")
@pytest.mark.parametrize(
    ("order", "last"), [("full_preactivation", "add"), ("original", "sum_act")]
)
def test_gradients_are_those_of_the_whole_net(order, last):
    import tensorflow as tf

    model = net({"order": order})
    flow = gradient_flow(model, X, Y)
    first = "stem_act" if order == "original" else "stem_conv"
    names = [first, *(f"{unit}_{last}" for unit in flow.units[:-1])]
    inputs = [model.get_layer(name).output for name in names]
    with tf.GradientTape() as tape:
        *maps, predicted = keras.Model(model.input, [*inputs, model.output])(X, training=True)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y, predicted))
    expected = [tf.norm(each).numpy() for each in tape.gradient(loss, maps)]
    np.testing.assert_allclose(flow.inputs, expected, rtol=1e-4)
    assert flow.loss == pytest.approx(float(loss), rel=1e-5)


def test_stacked_units_have_the_gradients_of_separate_ones():
    separate, stacked = net({"scan_units": False}), net({"scan_units": True})
    set_named_weights(stacked, named_weights(separate))
    flows = [gradient_flow(each, X, Y) for each in (separate, stacked)]
    assert flows[0].units == flows[1].units
    np.testing.assert_allclose(flows[0].inputs, flows[1].inputs, rtol=1e-4)
    np.testing.assert_allclose(flows[0].branches, flows[1].branches, rtol=1e-4)


def linear_net(shortcut: str, factor: float) -> keras.Model:
    """Build a net of one stage with a linear head and units `shortcut + factor * x`."""
    model = net(
        {
            "units": (6,),
            "channels": (16,),
            "strides": (1,),
            "unit": "basic",
            "norm": "none",
            "activation": "linear",
            "shortcut": shortcut,
        },
        classifier_activation=None,
    )
    identity = np.zeros((3, 3, 16, 16), "float32")
    identity[1, 1] = np.eye(16)
    for layer in model.layers:
        if "unit" in layer.name and "_conv" in layer.name:
            layer.set_weights([np.sqrt(factor) * identity])
    return model


@pytest.mark.parametrize(("shortcut", "kept"), [("identity", 1.0), ("scaling", 0.5)])
def test_gradients_of_a_linear_net_are_powers(shortcut, kept):
    # Every unit multiplies by `kept + 0.25` both ways: the gradient falls as 0.75**units where
    # shortcuts are halved, and cannot fall with identities (arXiv:1603.05027, equations 5 and 8).
    factor = 0.25
    flow = gradient_flow(linear_net(shortcut, factor), X, Y, loss=lambda y, scores: scores[:, 0])
    powers = (kept + factor) ** np.arange(6, 0, -1)
    np.testing.assert_allclose(flow.inputs / flow.inputs[-1], powers / powers[-1], rtol=1e-5)
    np.testing.assert_allclose(flow.shortcuts / flow.inputs, kept / (kept + factor), rtol=1e-5)
    np.testing.assert_allclose(flow.branches / flow.inputs, factor / (kept + factor), rtol=1e-5)


def test_signals_of_a_linear_net_are_powers():
    model = linear_net("identity", 0.25)
    signal = signal_propagation(model, X)
    first = ops.convert_to_numpy(take_apart(model).stem(X)).reshape(-1, 16)
    powers = 1.25 ** (2 * np.arange(6))
    np.testing.assert_allclose(signal.variances, first.var(axis=0).mean() * powers, rtol=1e-4)
    np.testing.assert_allclose(signal.means, (first.mean(axis=0) ** 2).mean() * powers, rtol=1e-4)
    np.testing.assert_allclose(signal.branch_shares, 0.25 / 1.25, rtol=1e-5)


def test_images_that_float16_cannot_hold():
    """A layer before the net takes them, which computes in float32."""
    inputs = keras.Input((16, 16, 3))
    scaled = keras.layers.Rescaling(2.0**-16, dtype="float32")(inputs)
    half = net(architecture=TINY, input_shape=None, input_tensor=scaled, dtype="mixed_float16")
    large, whole = X * 2**16, net(architecture=TINY)
    expected = signal_propagation(whole, X).variances
    # A rounding to float16 is 0.05% off, and there are some ten of them from the input to the last.
    np.testing.assert_allclose(signal_propagation(half, large).variances, expected, rtol=0.01)
    expected = gradient_flow(whole, X, Y).inputs
    np.testing.assert_allclose(gradient_flow(half, large, Y).inputs, expected, rtol=0.01)


def test_measuring_changes_nothing():
    model = net({"dropout": 0.5, "drop_path": 0.5})
    before = [ops.convert_to_numpy(each) for each in model.variables]
    gradient_flow(model, X, Y)
    signal_propagation(model, X)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(variable), err_msg=variable.path)


def test_a_unit_whose_branch_is_zero_may_go_and_moving_needs_one_shape():
    model = net({})
    last = model.get_layer("stage3_unit2_conv3")
    last.set_weights([0 * each for each in last.get_weights()])
    expected = scores(model)
    np.testing.assert_array_equal(scores_without(model, X, ["stage3_unit2"]), expected)
    assert np.abs(scores_without(model, X, ["stage3_unit3"]) - expected).max() > 1e-4
    names = [unit.name for unit in take_apart(model).units]
    np.testing.assert_array_equal(scores_with_order(model, X, names), expected)
    # The unit that does nothing does it anywhere.
    swapped = [*names[:-2], names[-1], names[-2]]
    np.testing.assert_allclose(scores_with_order(model, X, swapped), expected, atol=1e-6)


def test_what_cannot_be_done_is_said():
    model = net({})
    with pytest.raises(ValueError, match="leave the shape as it is .*stage3_unit1"):
        scores_without(model, X, ["stage3_unit1"])
    with pytest.raises(ValueError, match="name every unit once"):
        scores_with_order(model, X, ["stage2_unit1"])
    with pytest.raises(ValueError, match="must be a net of keras_preact"):
        gradient_flow(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), X, Y)
    dense = net({"unit": "dense"})
    with pytest.raises(ValueError, match="must end in an addition"):
        take_apart(dense)


def test_small_gradients_of_a_net_in_float16_are_those_of_its_weights():
    """Float16 has no numbers below 6e-8 but 0."""
    half, whole = (net(architecture=TINY, dtype=each) for each in ("mixed_float16", "float32"))
    # The curvature depends on where each of LoRA's matrices is.
    for model in (half, whole):
        model.get_layer("predictions").enable_lora(2)
    matrix = half.get_layer("predictions").lora_kernel_b
    matrix.assign(np.full(matrix.shape, 0.5))
    whole.set_weights(half.get_weights())

    def small(y, scores):
        return 1e-6 * keras.losses.sparse_categorical_crossentropy(y, scores)

    def measured(model):
        flow = gradient_flow(model, X, Y, small)
        paths = path_gradients(model, X, Y, small, samples=2)
        curvature = sharpness(model, X, Y, small, iterations=2)
        heat = grad_cam(model, X, Y, layer="stem_conv")
        return flow.inputs, flow.branches, paths.norms, curvature.eigenvalue, heat

    for ours, expected in zip(measured(half), measured(whole), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=WIDE_NET)


def test_layers_of_a_float16_model_that_cannot_be_copied_are_named():
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    inner = net(architecture=TINY, dtype="mixed_float16")
    before = [Twice(name="twice"), keras.layers.Lambda(lambda x: x, name="same")]
    model = keras.Sequential([keras.Input(X.shape[1:]), *before, inner])
    for measure in (grad_cam, sharpness):
        with pytest.raises(ValueError, match=r"float16.*register.*whose \['twice', 'same'\]"):
            measure(model, X, Y)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends can")
def test_float8_layers_are_refused():
    model = net({})
    model.get_layer("predictions").quantize("float8")
    for measure in (gradient_flow, path_gradients, grad_cam, sharpness):
        with pytest.raises(ValueError, match=r"no float8 layers.*whose \['predictions'\]"):
            measure(model, X, Y)


def test_pictures(tmp_path):
    model = net({})
    draw_gradient_flow(tmp_path / "flow.svg", {"$a_$b": gradient_flow(model, X, Y)}, "$A_$B")
    signals = {"$a_$b": signal_propagation(model, X)}
    draw_signal_propagation(tmp_path / "signals.png", signals)
    drawn = (tmp_path / "flow.svg").read_text()
    assert "$a_$b: branch" in drawn and "$A_$B" in drawn
    assert (tmp_path / "signals.png").stat().st_size > 10_000
