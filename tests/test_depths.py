"""The depth of each variable, by which layer-wise learning rates decay."""

from __future__ import annotations

import keras
import pytest

import keras_preact
from keras_preact import layer_depths
from keras_preact.transforms import freeze, replace_head
from tests.nets import TINY

NET = TINY.replace(units=(3, 1))


def _net(name: str | None = None, **changes) -> keras.Model:
    return keras_preact.PreActResNet(
        NET.replace(**changes), classes=4, input_shape=(16, 16, 3), name=name
    )


@pytest.mark.parametrize("changes", [{}, {"rematerialize": True}, {"scan_units": True}], ids=str)
def test_depth_is_the_stage_in_every_form(changes):
    model = _net(**changes)
    depths = layer_depths(model)
    assert list(depths) == [variable.path for variable in model.trainable_variables]
    for path, depth in depths.items():
        parts = {"stem_": 0, "stage2": 1, "stage3": 2, "head_norm": 3, "predictions": 3}
        assert depth == next(parts[part] for part in parts if part in path), path
    assert set(depths.values()) == {0, 1, 2, 3}


def test_what_is_frozen_has_none():
    model = _net()
    every = layer_depths(model)
    freeze(model, 2)
    left = layer_depths(model)
    assert left == {path: depth for path, depth in every.items() if depth > 1}


def test_a_head_of_ones_own():
    model = replace_head(_net(), None)
    model = keras.Model(model.input, keras.layers.Dense(2, name="mine")(model.output))
    assert layer_depths(model)["mine/kernel"] == 3


def _side_by_side(*nets: keras.Model) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Concatenate()([net(inputs) for net in nets])
    return keras.Model(inputs, keras.layers.Dense(2, name="mine")(outputs))


def test_two_nets_have_the_depths_of_one():
    depths = layer_depths(_side_by_side(_net(name="a"), _net(name="b")))
    assert depths == {**layer_depths(_net()), "mine/kernel": 3, "mine/bias": 3}
    deeper = _net(units=(1, 1, 1), channels=(8, 16, 32), strides=(1, 2, 2), name="b")
    with pytest.raises(ValueError, match="depths 3 and 4 of 'head_norm/gamma'"):
        layer_depths(_side_by_side(_net(name="a"), deeper))


def test_a_model_of_someone_else():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(ValueError, match="must be a net of keras_preact.*'other'"):
        layer_depths(other)
