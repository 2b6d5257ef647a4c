"""Analyses of models that hold nets: any layer, nested nets, several inputs. On any backend."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_preact import analysis
from keras_preact.named_weights import named_weights
from tests.nets import SMALL, TINY, X, images, net, scores

TABLE = images(2, 4)
CLASSES = [1, 0]


def body(name="body", **options):
    return net(architecture=TINY, include_top=False, name=name, **{"randomize": True, **options})


class Subclassed(keras.Model):
    """Model without a graph."""

    def __init__(self):
        super().__init__()
        self.body = body()
        self.top = layers.Dense(2)

    def call(self, x):
        return self.top(keras.ops.mean(self.body(x), axis=(1, 2)))


def on_image_and_table(activation="softmax", dropout=False):
    """Return a classifier of a net's pooled maps and a table."""
    x, table = keras.Input(X.shape[1:]), keras.Input((4,))
    inner = body(changes={"dropout": 0.5} if dropout else None)
    y = layers.GlobalAveragePooling2D()(inner(layers.Rescaling(2.0)(x)))
    y = layers.Dense(2, name="scores")(layers.Concatenate()([y, table]))
    return keras.Model([x, table], layers.Activation(activation)(y), name="two")


def expected_heat(model, maps, total):
    """Compute Grad-CAM by hand for maps that are a term of the sum before the head's norm.

    Args:
        model: `on_image_and_table()`.
        maps: The term.
        total: The sum.
    """
    weights = named_weights(model)
    gamma, beta, mean, variance = (weights["body/head_norm"][key] for key in "0123")
    inner = model.get_layer("body")
    epsilon = inner.get_layer("head_norm").epsilon
    scale = gamma / np.sqrt(variance + epsilon)
    active = (total - mean) * scale + beta > 0
    kernel = weights["scores"]["0"][: maps.shape[-1]].T[CLASSES]
    pixels = maps.shape[1] * maps.shape[2]
    gradient = kernel[:, None, None] * scale * active / pixels
    heat = np.maximum((gradient.mean(axis=(1, 2), keepdims=True) * maps).sum(axis=-1), 0)
    return heat / heat.max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("layer", ["stage3_unit1_conv2", "body/stage3_unit1_shortcut"])
def test_grad_cam_in_a_branch_and_a_projection_of_a_nested_net(layer):
    """Both are terms of the last sum, whose gradient is known."""
    model = on_image_and_table()
    inner = model.get_layer("body")
    names = (layer.rpartition("/")[2], "stage3_unit1_add")
    outputs = [inner.get_layer(name).output for name in names]
    maps, total = (
        keras.ops.convert_to_numpy(each) for each in keras.Model(inner.input, outputs)(2 * X)
    )
    heat = analysis.grad_cam(model, [X, TABLE], CLASSES, layer=layer)
    np.testing.assert_allclose(heat, expected_heat(model, maps, total), rtol=1e-4, atol=1e-5)


def test_grad_cam_takes_the_last_maps_of_the_one_net_and_any_activation_of_the_scores():
    model = on_image_and_table()
    heat = analysis.grad_cam(model, [X, TABLE], CLASSES)
    for same in ("body", "head_act", "body/head_act"):
        np.testing.assert_allclose(
            analysis.grad_cam(model, [X, TABLE], CLASSES, layer=same), heat, rtol=1e-5
        )
    linear = on_image_and_table("linear")
    linear.set_weights(model.get_weights())
    np.testing.assert_allclose(analysis.grad_cam(linear, [X, TABLE], CLASSES), heat, rtol=1e-5)
    assert heat.shape == (2, 8, 8) and heat.max() == 1


def test_grad_cam_of_a_sequential_model_is_that_of_the_net():
    inner = net(architecture=TINY)
    model = keras.Sequential([keras.Input(X.shape[1:]), layers.Rescaling(0.5), inner])
    got = analysis.grad_cam(model, 2 * X, CLASSES, layer="stage2_unit1_conv1")
    expected = analysis.grad_cam(inner, X, CLASSES, layer="stage2_unit1_conv1")
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_grad_cam_names_what_it_cannot_tell():
    x, y = keras.Input(X.shape[1:]), keras.Input(X.shape[1:])
    first, second = body("a"), body("b")
    two = keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling2D()(first(x) + second(x))))
    with pytest.raises(ValueError, match=r"one of \['a/head_act', 'b/head_act'\]. Received: None"):
        analysis.grad_cam(two, X)
    with pytest.raises(ValueError, match=r"one of \['a/stem_conv', 'b/stem_conv'\]"):
        analysis.grad_cam(two, X, layer="stem_conv")
    assert analysis.grad_cam(two, X, layer="b/stem_conv").shape == (2, 16, 16)
    with pytest.raises(ValueError, match="no layer 'a/stem_con'. Did you mean 'a/stem_conv'"):
        analysis.grad_cam(two, X, layer="a/stem_con")
    shared = keras.Model([x, y], layers.Dense(2)(layers.GlobalMaxPooling2D()(first(x) + first(y))))
    with pytest.raises(ValueError, match="'head_act' must be called once .* called 2 times"):
        analysis.grad_cam(shared, [X, X])
    mean = keras.Model(x, layers.Average()([net(architecture=TINY, name=n)(x) for n in "cd"]))
    with pytest.raises(ValueError, match="must end in a dense layer.*ends in a Average"):
        analysis.grad_cam(mean, X, layer="c/head_act")
    with pytest.raises(ValueError, match="must give maps. Received: 'head_pool'"):
        analysis.grad_cam(net(architecture=TINY), X, layer="head_pool")


def test_a_net_in_a_model_is_taken_apart_with_what_is_around_it():
    x = keras.Input(X.shape[1:])
    inner = net({"scan_units": True, "units": (1, 3)}, architecture=TINY)
    top = layers.Dense(3, activation="softmax")
    model = keras.Model(x, top(inner(layers.Rescaling(2.0)(x))))
    chain = analysis.take_apart(model)
    assert [unit.name for unit in chain.units] == [
        unit.name for unit in analysis.take_apart(inner).units
    ]
    np.testing.assert_allclose(analysis.scores_without(model, X, []), scores(model), rtol=1e-4)
    signals = analysis.signal_propagation(model, X, training=False)
    expected = analysis.signal_propagation(inner, 2 * X, training=False)
    np.testing.assert_allclose(signals.variances, expected.variances, rtol=1e-4)
    flow = analysis.gradient_flow(model, X, np.array([0, 1]), training=False)
    assert (flow.inputs > 0).all()


def test_the_one_output_may_be_in_a_dictionary():
    inner = net(architecture=TINY)
    x = keras.Input(X.shape[1:])
    models = keras.Model(inner.input, {"kind": inner.output}), keras.Model(x, {"kind": inner(x)})
    for look in (
        lambda each: analysis.occlusion(each, X, size=16),
        lambda each: analysis.scores_without(each, X, []),
        lambda each: analysis.sharpness(each, X, np.array(CLASSES), iterations=1).eigenvalue,
    ):
        expected = look(inner)
        for model in models:
            np.testing.assert_allclose(look(model), expected, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_taken_apart_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="'two' must depend on that of its last unit only"):
        analysis.take_apart(on_image_and_table())
    subclassed = Subclassed()
    subclassed(X)
    for look in (
        analysis.take_apart,
        lambda each: analysis.grad_cam(each, X),
        lambda each: analysis.occlusion(each, X, size=8),
        lambda each: analysis.loss_landscape(each, X, np.array(CLASSES), [], [0.0]),
    ):
        with pytest.raises(ValueError, match="must be a functional Keras model"):
            look(subclassed)


def test_units_are_called_as_the_model_is():
    """Keras overrides the `training=False` of a call in a model by that of the model's call."""
    x = keras.Input(X.shape[1:])
    inner = net(architecture=TINY, name="inner")
    model = keras.Model(x, inner(x, training=False))
    for training in (True, False):
        flow, own = (
            analysis.gradient_flow(each, X, np.array([0, 1]), training=training)
            for each in (model, inner)
        )
        np.testing.assert_allclose(flow.branches, own.branches, rtol=1e-4)
        expected = model(X, training=training)
        loss = keras.losses.sparse_categorical_crossentropy(np.array([0, 1]), expected)
        np.testing.assert_allclose(flow.loss, np.mean(keras.ops.convert_to_numpy(loss)), rtol=1e-4)


def test_costs_of_several_nets_are_told_apart():
    x = keras.Input(X.shape[1:])
    first, second = body("a"), body("b")
    model = keras.Sequential([x, keras.Model(x, first(x) + second(x), name="both")])
    stages = {stage.name: stage.units for stage in analysis.model_cost(model).stages}
    assert stages["both/a/stage2"] == stages["both/b/stage2"] == 1
    total = analysis.model_cost(model).total
    assert total.flops == 2 * analysis.model_cost(first).total.flops
    assert len(analysis.unit_graphs(model)[0].units) == 2


def test_filters_of_stacked_units_in_a_nested_net_have_norms_of_their_own():
    inner = net({"scan_units": True}, architecture=SMALL)
    x = keras.Input(X.shape[1:])
    model = keras.Model(x, layers.Dense(2)(inner(x)))
    nested = analysis.filter_normalized_direction(model, seed=0)
    own = analysis.filter_normalized_direction(inner, seed=0)
    for got, expected in zip(nested, own, strict=False):
        np.testing.assert_array_equal(got, expected)
