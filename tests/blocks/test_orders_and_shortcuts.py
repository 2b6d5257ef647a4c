"""The paper's ablations (arXiv:1603.05027): orders of activation and kinds of shortcut."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.blocks.shortcuts import SHORTCUTS
from keras_preact.layers import BatchNormalization
from keras_preact.spec.orders import ORDERS
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import X, net, scores
from tests.variants import check_forms, check_training_and_saving, some_slow

VARIANTS = [{"order": order} for order in ORDERS]
VARIANTS += [
    {"order": "original", "shortcut": each, "unit": "basic"}
    for each in SHORTCUTS
    if each != "identity"
]
FIRST_UNITS = [{"activated_stem": True, "unit": "basic"}, {"projection_input": "raw"}]

# Figure 4 of the paper: a unit's steps after `x_l`, and what follows the addition.
STEPS = {
    "original": "conv norm act conv norm add act",
    "bn_after_addition": "conv norm act conv add norm act",
    "relu_before_addition": "conv norm act conv norm act add",
    "relu_only_preactivation": "act conv norm act conv norm add",
    "full_preactivation": "norm act conv norm act conv add",
    "pyramid": "norm conv norm act conv norm add",
}


def _id(changes: dict) -> str:
    return "-".join(map(str, changes.values()))


@pytest.mark.parametrize("changes", [*VARIANTS, *FIRST_UNITS], ids=_id)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", [*some_slow(VARIANTS, 2), *FIRST_UNITS], ids=_id)
def test_every_form_gives_the_same_scores(changes):
    check_forms(changes)


@pytest.mark.parametrize("order", ORDERS)
def test_steps_of_a_unit_are_the_papers(order):
    model = net({"order": order, "unit": "basic"})
    kinds = {
        keras_preact.layers.Conv2D: "conv",
        BatchNormalization: "norm",
        keras.layers.Activation: "act",
        keras.layers.Add: "add",
    }
    path, (tensor,) = [], [model.get_layer("stage2_unit2_add").input[0]]
    while "unit2_add" not in path:
        # The branch's layer, not the addition, is what comes next until the branch has ended.
        users = [each for each in model.layers if each.name.startswith("stage2_unit2_")]
        users = [each for each in users if any(t is tensor for t in _inputs(each))]
        layer = min(users, key=lambda each: isinstance(each, keras.layers.Add))
        path.append(
            layer.name.removeprefix("stage2_") if "add" in layer.name else kinds[type(layer)]
        )
        tensor = layer.output
    path[-1] = "add"
    after = ("stage2_unit2_sum_norm", "stage2_unit2_sum_act")
    names = {layer.name for layer in model.layers}
    path += [name.rpartition("_")[2] for name in after if name in names]
    assert " ".join(path) == STEPS[order]


def _inputs(layer: keras.layers.Layer) -> list:
    return layer.input if isinstance(layer.input, list) else [layer.input]


def test_a_scaled_shortcut_shrinks_by_its_factor_each_unit():
    model = net({"shortcut": "scaling", "shortcut_scale": 0.5, "zero_init_residual": True})
    body = keras.Model(
        model.input,
        [model.get_layer(f"stage3_unit{unit}_add").output for unit in (1, 3)],
    )
    first, last = body(X)
    np.testing.assert_allclose(last, first / 4, rtol=1e-5)


@pytest.mark.parametrize(("shortcut", "share"), [("shortcut_gating", 1), ("exclusive_gating", 2)])
def test_gates_follow_the_formula(shortcut, share):
    model = net({"shortcut": shortcut, "gate_bias": -1.0, "unit": "basic"})
    name = "stage2_unit2"
    x = model.get_layer("stage2_unit1_add").output
    branch = model.get_layer(f"{name}_conv2").output
    gate = model.get_layer(f"{name}_gate").output
    total = model.get_layer(f"{name}_add").output
    x, branch, gate, total = map(np.asarray, keras.Model(model.input, [x, branch, gate, total])(X))
    kernel, bias = model.get_layer(f"{name}_gate").get_weights()
    np.testing.assert_allclose(gate, 1 / (1 + np.exp(-(x @ kernel[0, 0] + bias))), atol=1e-5)
    factor = {1: 1.0, 2: gate}[share]
    np.testing.assert_allclose(total, (1 - gate) * x + factor * branch, atol=1e-4)


def test_dropout_of_the_shortcut_is_for_training_alone():
    plain, dropped = net({}), net({"shortcut": "dropout", "shortcut_dropout": 0.5})
    dropped.set_weights(plain.get_weights())
    np.testing.assert_array_equal(scores(dropped), scores(plain))
    assert not np.allclose(dropped(X, training=True), dropped(X, training=True))


@pytest.mark.parametrize("order", [order for order in ORDERS if ORDERS[order].zero_residual])
def test_branches_that_start_at_zero_learn(order):
    changes = {"order": order, "zero_init_residual": True, "units": (2, 1)}
    model = net(changes, randomize=False)
    _, branch = model.get_layer("stage2_unit2_add").input
    assert not np.any(keras.Model(model.input, branch)(X, training=True))
    optimizer, loss = keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, run_eagerly=True)
    model.train_on_batch(X, np.array([1, 2]))
    assert np.any(keras.Model(model.input, branch)(X, training=True))


def test_a_branch_that_ends_in_an_activation_cannot_start_at_zero():
    with pytest.raises(ValueError, match="`zero_init_residual` must be False"):
        net({"order": "relu_before_addition", "zero_init_residual": True})


def _moved_to_the_stem(named: dict) -> dict:
    """Name the first unit's first norm as that of an activated stem."""
    return {"stem_norm" if name == "stage2_unit1_norm1" else name: named[name] for name in named}


def test_both_paths_of_the_first_unit_begin_with_the_activated_stem():
    # Where the channels stay, so that the shortcut is an identity.
    changes = {"unit": "basic", "channels": (16, 32)}
    ours, other = net({**changes, "activated_stem": True}), net(changes)
    add, conv = (ours.get_layer(f"stage2_unit1_{name}") for name in ("add", "conv1"))
    assert add.input[0] is conv.input is ours.get_layer("stem_act").output
    assert ours.count_params() == other.count_params()
    set_named_weights(ours, _moved_to_the_stem(named_weights(other)))
    assert not np.allclose(scores(ours), scores(other), rtol=1e-3)


def test_an_activated_stem_changes_names_only_where_the_first_unit_projects():
    ours, other = net({"activated_stem": True}), net()
    set_named_weights(ours, _moved_to_the_stem(named_weights(other)))
    np.testing.assert_array_equal(scores(ours), scores(other))


def test_a_shortcut_projects_the_raw_input():
    ours, other = net({"projection_input": "raw"}), net()
    assert named_weights(ours).keys() == named_weights(other).keys()
    for stage, before in ((2, "stem_conv"), (3, "stage2_unit2_add")):
        shortcut = ours.get_layer(f"stage{stage}_unit1_shortcut")
        assert shortcut.input is ours.get_layer(before).output
        assert other.get_layer(shortcut.name).input is not other.get_layer(before).output


@pytest.mark.parametrize("order", ["original", "bn_after_addition", "relu_before_addition"])
def test_a_stem_that_the_order_activates_stays_as_it_is(order):
    ours, other = (net({"order": order, "activated_stem": value}) for value in (True, False))
    set_named_weights(ours, named_weights(other))
    np.testing.assert_array_equal(scores(ours), scores(other))


def test_a_stem_is_activated_only_before_units_that_begin_so():
    with pytest.raises(ValueError, match='`activated_stem` must be False with `order="pyramid"'):
        net({"order": "pyramid", "activated_stem": True})
