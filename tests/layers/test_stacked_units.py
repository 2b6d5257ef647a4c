"""Stacked and rematerialised units against separate ones, which are the reference."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact import Architecture, transforms
from keras_preact.blocks.nesting import graph_depth
from keras_preact.blocks.stages import separate_units
from keras_preact.layers import DropPath, Rematerialized, StackedUnits
from keras_preact.weights import named_weights, set_named_weights

TINY = Architecture(units=(1, 3), channels=(16, 32), strides=(1, 2), stem="cifar", stem_channels=8)
SIZE = 8
LABELS = np.eye(4, dtype="float32")


def _net(architecture: Architecture = TINY, seed: int = 0, **options) -> keras.Model:
    shape = (3, SIZE, SIZE) if options.get("data_format") == "channels_first" else (SIZE, SIZE, 3)
    model = keras_preact.PreActResNet(architecture, classes=4, input_shape=shape, **options)
    rng = np.random.default_rng(seed)
    named = {
        name: {key: rng.uniform(0.1, 0.5, array.shape) for key, array in arrays.items()}
        for name, arrays in sorted(named_weights(model).items())
    }
    set_named_weights(model, named)
    return model


def _images(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, *model.input_shape[1:])).astype("float32")


def _differ(first: keras.Model, second: keras.Model) -> float:
    """Return the largest difference of weights, relative to the largest weight of the layer."""
    one, other = named_weights(first), named_weights(second)
    assert one.keys() == other.keys()
    return max(
        abs(one[name][key] - other[name][key]).max() / abs(one[name][key]).max()
        for name in one
        for key in one[name]
    )


def _compile(model: keras.Model, eagerly: bool = False) -> None:
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    # Variables that the first step makes cost two more traces of it.
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "categorical_crossentropy", jit_compile=False, run_eagerly=eagerly)


def _train(model: keras.Model, steps: int = 2, eagerly: bool = False) -> list[float]:
    _compile(model, eagerly)
    return [float(model.train_on_batch(_images(model), LABELS)) for _ in range(steps)]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"unit": "basic", "use_bias": True}, {}),
        ({"rematerialize": True}, {}),
        pytest.param({}, {"data_format": "channels_first"}, marks=pytest.mark.slow),
        ({}, {"dtype": "mixed_bfloat16"}),
    ],
    ids=str,
)
def test_outputs_and_training_equal_those_of_separate_units(changes, options):
    separate = _net(
        TINY.replace(**{**changes, "scan_units": False, "rematerialize": False}), **options
    )
    stacked = _net(TINY.replace(**{**changes, "scan_units": True}), **options)
    assert any(isinstance(layer, StackedUnits) for layer in stacked.layers)
    assert separate.count_params() == stacked.count_params()
    images = _images(separate)
    # Both apply the same kernels to the same rounded numbers, in two programs.
    tolerance = 1e-5 if not options.get("dtype") else 1e-2
    np.testing.assert_allclose(separate(images), stacked(images), atol=tolerance)
    losses = _train(separate, eagerly=True)
    np.testing.assert_allclose(losses, _train(stacked), rtol=tolerance)
    # Batch statistics are weights too.
    assert _differ(separate, stacked) < tolerance
    np.testing.assert_allclose(separate(images), stacked(images), atol=tolerance)


@pytest.mark.parametrize("scan_units", [True, False])
def test_rematerialised_gradients_are_the_same(scan_units):
    plain = _net(TINY.replace(scan_units=scan_units))
    remat = _net(TINY.replace(scan_units=scan_units, rematerialize=True))
    gradients = []
    for model in (plain, remat):
        with tf.GradientTape() as tape:
            loss = keras.losses.CategoricalCrossentropy()(
                LABELS, model(_images(model), training=True)
            )
        gradients.append(tape.gradient(loss, [v.value for v in model.trainable_variables]))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-4)
    assert _differ(plain, remat) == 0


def test_rematerialised_random_layers_draw_the_same_masks_again():
    # The gradient of sum(dropout(x)) is the mask; a second draw would give another.
    inputs = keras.Input((64,))
    layer = Rematerialized(keras.Model(inputs, keras.layers.Dropout(0.5)(inputs)))
    x = tf.ones((3, 64))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), y)
    assert (np.asarray(layer(x, training=True)) != np.asarray(y)).any()


def test_layers_that_a_call_builds_are_rematerialised():
    class Unit(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, dtype="mixed_bfloat16")

        def call(self, inputs):
            return self.dense(inputs)

    x = np.ones((3, 4), "float32")
    in_a_graph, called = Rematerialized(Unit()), Rematerialized(Unit())
    output = in_a_graph(keras.Input((4,)))
    assert (output.shape, output.dtype) == ((None, 2), "bfloat16")
    for layer in (in_a_graph, called):
        np.testing.assert_array_equal(layer(x, training=True), layer.layer(x))
        assert len(layer.trainable_variables) == 2


def _dropping_units(rates: list[float]) -> StackedUnits:
    """Return units that double a map, or, dropped, hand it on."""
    x, rate = keras.Input((None, None, 1)), keras.Input(batch_shape=(), name="drop_path_rate")
    branch = DropPath(0.0, name="unit_drop_path")(x, rate=rate)
    template = keras.Model([x, rate], keras.layers.Add(name="unit_add")([x, branch]))
    return StackedUnits(template, [f"unit{index}" for index in range(len(rates))], rates)


def test_every_unit_has_its_own_drop_path_rate():
    rates = [0.0, 0.5, 0.9]
    x = np.ones((4000, 1, 1, 1), "float32")
    y = np.asarray(_dropping_units(rates)(x, training=True)).ravel()
    # A branch that is kept is divided by the probability of keeping it.
    outcomes = {2.0, 2 * 3.0, 2 * 11.0, 2 * 3.0 * 11.0}
    assert set(np.round(y, 3)) == outcomes
    kept = [
        np.isin(np.round(y, 3), [6.0, 66.0]).mean(),
        np.isin(np.round(y, 3), [22.0, 66.0]).mean(),
    ]
    np.testing.assert_allclose(kept, [0.5, 0.1], atol=5 * np.sqrt(0.25 / 4000))
    # Independent masks: both kept as often as the product says.
    assert abs((np.round(y, 3) == 66).mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 4000)


def test_masks_differ_from_call_to_call():
    units = _dropping_units([0.5, 0.5])
    x = np.ones((64, 1, 1, 1), "float32")
    assert (np.asarray(units(x, training=True)) != np.asarray(units(x, training=True))).any()
    np.testing.assert_array_equal(units(x), 4 * x)


def test_units_start_with_weights_of_their_own():
    layer = keras_preact.PreActResNet(TINY.replace(scan_units=True)).get_layer("stage3_unit2to3")
    kernels = next(np.asarray(each) for each in layer.weights if each.name == "conv2_kernel")
    assert kernels.shape == (2, 3, 3, 8, 8)
    assert (kernels[0] != kernels[1]).all()
    # He: deviation sqrt(2 / (3 * 3 * 8)); 1152 draws.
    assert kernels.std() == pytest.approx(np.sqrt(2 / 72), rel=0.15)


def test_frozen_units_keep_their_statistics():
    model = _net(TINY.replace(scan_units=True))
    layer = model.get_layer("stage3_unit2to3")
    layer.trainable = False
    before = [np.asarray(weight) for weight in layer.weights]
    _train(model, eagerly=True)
    for old, new in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    layer.trainable = True
    _train(model, eagerly=True)
    assert all(
        (old != np.asarray(new)).any() for old, new in zip(before, layer.weights, strict=True)
    )


def test_weight_decay_finds_stacked_kernels():
    counts = [
        sum(np.prod(each.shape) for each in keras_preact.decayed_variables(_net(architecture)))
        for architecture in (TINY.replace(scan_units=True), TINY.replace(scan_units=False))
    ]
    assert counts[0] == counts[1] > 0


def test_features_of_stacked_stages():
    separate, stacked = (_net(TINY.replace(scan_units=scan)) for scan in (False, True))
    maps = [keras_preact.feature_extractor(model) for model in (separate, stacked)]
    assert maps[0].strides == maps[1].strides == {"stage2": 1, "stage3": 2}
    images = _images(separate)
    for name, expected in maps[0](images).items():
        np.testing.assert_allclose(maps[1](images)[name], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("scan_units", "rematerialize"),
    [
        (True, False),
        (False, True),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
    ],
)
def test_saving(tmp_path, scan_units, rematerialize):
    model = _net(
        TINY.replace(scan_units=scan_units, rematerialize=rematerialize, drop_path=0.2, dropout=0.1)
    )
    _train(model, eagerly=True)
    model.save(tmp_path / "net.keras")
    copy = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    np.testing.assert_array_equal(model(_images(model)), copy(_images(model)))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(model(_images(model)), clone(_images(model)))


@pytest.mark.parametrize(
    ("units", "scan_units", "steps"),
    [
        # Two layers per unit: 300, and 302.
        ((1, 149), "auto", 150),
        ((1, 150), "auto", 3),
        ((128, 23), "auto", 25),
        ((1, 150), False, 151),
        ((1, 3), True, 3),
    ],
)
def test_auto_scans_the_long_stages_of_nets_of_more_than_300_layers(units, scan_units, steps):
    net = TINY.replace(unit="basic", units=units, scan_units=scan_units)
    assert separate_units(net.stages.values(), net) == steps


@pytest.mark.parametrize("name", keras_preact.BUILDERS)
def test_published_nets_of_up_to_200_layers_do_not_scan(name):
    net = keras_preact.BUILDERS[name].architecture
    flat = separate_units(net.stages.values(), net) == sum(net.units)
    assert flat == (name != "PreActResNet1001")


def _build_deep_down(frames: int, **changes) -> keras.Model:
    """Build a net of 200 layers from a caller that many frames deep."""
    if frames:
        return _build_deep_down(frames - 1, **changes)
    return keras_preact.PreActResNet200(include_top=False, channels=(4,) * 4, **changes)


def test_two_hundred_layers_are_layers_of_keras_wherever_they_are_built():
    model = _build_deep_down(700)
    assert not any(isinstance(layer, keras.Model | StackedUnits) for layer in model.layers)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    assert not any(each.name in ("gamma", "beta") for each in model.trainable_variables)


def test_units_are_models_where_keras_cannot_walk_their_layers():
    # Three steps per unit, of which there are few layers.
    architecture = Architecture(
        unit="basic",
        units=(260,),
        channels=(4,),
        strides=(1,),
        stem="cifar",
        stem_channels=4,
        norm="none",
        order="original",
        shortcut="scaling",
        scan_units=False,
    )
    model = keras_preact.PreActResNet(architecture, classes=2, input_shape=(8, 8, 3))
    assert graph_depth(model.output) == 267
    unit = model.get_layer("stage2_unit260")
    assert unit.get_layer("stage2_unit260_conv2").kernel.shape == (3, 3, 4, 4)


def test_too_many_separate_units():
    architecture = keras_preact.PreActResNet1001.architecture.replace(
        units=(1000, 1, 1), scan_units=False
    )
    with pytest.raises(ValueError, match="1002 separate units.*scan_units=True"):
        keras_preact.PreActResNet(architecture)


def _train_step_nodes(depth: int, **changes) -> int:
    """Return the number of nodes in the graph of Keras's own training step and its functions."""
    units = ((depth - 2) // 9,) * 3
    model = keras_preact.PreActResNet1001(units=units, channels=(8, 16, 32), **changes)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "categorical_crossentropy")
    assert not model.jit_compile
    batch = tf.zeros((2, 32, 32, 3)), tf.zeros((2, 10))
    graph = tf.function(model.train_step).get_concrete_function(batch).graph.as_graph_def()
    return len(graph.node) + sum(len(each.node_def) for each in graph.library.function)


@pytest.mark.parametrize(
    ("depths", "rematerialize"),
    [
        ((164, 2000), False),
        pytest.param((164, 497, 1001, 2000), False, marks=pytest.mark.slow),
        pytest.param((164, 2000), True, marks=pytest.mark.slow),
    ],
)
def test_graph_does_not_grow_with_depth(depths, rematerialize):
    # 164 layers are fewer than "auto" scans.
    nodes = {
        depth: _train_step_nodes(depth, scan_units=True, rematerialize=rematerialize)
        for depth in depths
    }
    assert len(set(nodes.values())) == 1, nodes


@pytest.mark.parametrize("rematerialize", [False, "norms"])
def test_no_step_of_the_loop_walks_through_a_list(rematerialize):
    """The work of a list's sum, or of zeros for it, would grow with the square of the depth."""
    model = _net(TINY.replace(rematerialize=rematerialize, scan_units=True))
    _compile(model)
    batch = (tf.constant(_images(model)), tf.constant(LABELS))
    step = tf.function(model.train_step).get_concrete_function(batch)
    bodies = [each for each in step.graph.as_graph_def().library.function if _pops(each)]
    assert bodies
    walks = [
        node.name
        for body in bodies
        for node in body.node_def
        if node.op in ("AddN", "ZerosLike") and node.attr["T"].type == tf.variant.as_datatype_enum
    ]
    assert walks == []


def _pops(body) -> bool:
    return any(node.op == "TensorListPopBack" for node in body.node_def)


def test_further_variables_of_units_are_refused(tmp_path):
    """LoRA's matrices would be those of the template, which no unit computes with."""
    stacked = _net(TINY.replace(scan_units=True))
    unrolled = transforms.unroll(stacked)
    stacked.get_layer("stage3_unit2to3").unit_layers()["conv1"].enable_lora(2)
    for use in (
        lambda: stacked(_images(stacked)),
        lambda: stacked.save(tmp_path / "net.keras"),
        lambda: transforms.unroll(stacked),
    ):
        with pytest.raises(ValueError, match="unroll` the net before.*unit_conv1/lora_kernel_a"):
            use()
    for name in ("stage3_unit2_conv1", "stage3_unit3_conv1"):
        unrolled.get_layer(name).enable_lora(2)
    with pytest.raises(ValueError, match="no LoRA matrices.*Received: `stage3_unit2_conv1`"):
        transforms.stack(unrolled)


def test_forward_mode_gradients_by_stacked_weights():
    model = _net(TINY.replace(scan_units=True))
    weights = [each.value for each in model.trainable_variables]
    images = tf.constant(_images(model))
    with tf.autodiff.ForwardAccumulator(weights, [0.1 * each for each in weights]) as forward:
        loss = tf.reduce_sum(model(images, training=False) ** 2)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        backward = tf.reduce_sum(model(images, training=False) ** 2)
    gradients = tape.gradient(backward, weights)
    expected = sum(
        float(tf.reduce_sum(0.1 * weight * gradient))
        for weight, gradient in zip(weights, gradients, strict=True)
    )
    np.testing.assert_allclose(forward.jvp(loss), expected, rtol=1e-4)


def test_losses_of_other_layers_are_refused():
    class Penalized(keras.layers.Dense):
        def call(self, inputs):
            self.add_loss(keras.ops.mean(inputs))
            return super().call(inputs)

    x = keras.Input((None, None, 1))
    template = keras.Model(x, Penalized(1, name="unit_conv1")(x), name="unit")
    units = StackedUnits(template, ["stage2_unit2", "stage2_unit3"])
    with pytest.raises(ValueError, match="but no `add_loss`.*Received: 1 losses of the unit"):
        units(np.ones((2, 4, 4, 1), "float32"))


def test_drop_path_that_does_not_fit():
    with pytest.raises(ValueError, match="one rate for each of the 2 units. Received: 1"):
        units = _dropping_units([0.1, 0.2])
        StackedUnits(units._unit.model, ["unit1", "unit2"], [0.1])
    with pytest.raises(ValueError, match="if, and only if, the template takes a rate"):
        StackedUnits(units._unit.model, ["unit1", "unit2"])
