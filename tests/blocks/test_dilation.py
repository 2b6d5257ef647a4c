"""Dilation by stage and by unit: receptive fields, and the same weights at other strides."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_preact import Architecture, feature_extractor
from keras_preact.layers import StackedUnits
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import net, scores
from tests.numerics import NET
from tests.variants import check_forms, check_training_and_saving

MULTI_GRID = {"strides": (2, 2), "output_stride": 2, "multi_grid": (1, 2, 4), "units": (1, 3)}
SIZE = 65


def test_multi_grid_trains_saves_and_loads(tmp_path):
    check_training_and_saving(MULTI_GRID, tmp_path)


def test_dilation_of_a_strided_stage_trains_saves_and_loads(tmp_path):
    check_training_and_saving({"dilations": (1, 2)}, tmp_path)


def test_multi_grid_gives_the_same_scores_in_every_form():
    check_forms(MULTI_GRID, scans=False)


def test_dilated_stages_give_the_same_scores_in_every_form():
    check_forms({"dilations": (2, 3)})


# The radius, in pixels of the input: the stem's 1, then each 3x3 convolution's dilation times the
# pixels of the input between two of its own.
@pytest.mark.parametrize(
    ("changes", "radius"),
    [
        ({}, 1 + 1 + 3),
        ({"dilations": (1, 2), "multi_grid": (1, 2, 4)}, 1 + 1 + 2 * (1 + 2 + 4)),
        ({"unit": "basic", "dilations": (3, 1)}, 1 + 2 * 3 + 6),
        ({"multi_grid": (1, 3)}, 1 + 1 + (1 + 3 + 1)),
        ({"strides": (1, 2), "dilations": (1, 2)}, 1 + 1 + 2 + 2 * (2 + 2)),
        ({"strides": (1, 2), "output_stride": 1, "multi_grid": (1, 2, 4)}, 2 + 1 + 2 * (2 + 4)),
        ({"cardinality": 2, "dilations": (1, 2)}, 1 + 1 + 3 * 2),
        # The hierarchy's second split sees through one convolution, its last through none.
        ({"spatial": "res2", "res2_scale": 3, "bottleneck_ratio": 0.75}, 1 + 1 + 1 + 2 + 2),
    ],
)
def test_receptive_field(changes, radius):
    fields = {"units": (1, 3), "strides": (1, 1), "activation": "linear", **changes}
    model = net(fields, input_shape=(SIZE, SIZE, 3), include_top=False)
    x = tf.Variable(np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3)), dtype="float32")
    with tf.GradientTape() as tape:
        maps = model(x)
        middle = maps.shape[1] // 2
        pixel = tf.reduce_sum(maps[:, middle, middle])
    rows = np.flatnonzero(np.any(tape.gradient(pixel, x), axis=(0, 2, 3)))
    assert (rows[0], rows[-1]) == (SIZE // 2 - radius, SIZE // 2 + radius)


@pytest.mark.parametrize("stride_in", ["first_conv", "spatial_conv"])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_output_stride_keeps_the_pixels_of_a_dilated_net(unit, stride_in):
    fields = {"unit": unit, "stride_in": stride_in, "strides": (2, 2)}
    fields |= {"dilations": (2, 1), "multi_grid": (1, 2, 1)}
    options = {"input_shape": (32, 32, 3), "include_top": False}
    coarse, dense = net(fields, **options), net({**fields, "output_stride": 1}, **options)
    set_named_weights(dense, named_weights(coarse))
    assert feature_extractor(coarse).strides == {"stage2": 2, "stage3": 4}
    assert feature_extractor(dense).strides == {"stage2": 1, "stage3": 1}
    x = np.random.default_rng(3).standard_normal((1, 32, 32, 3)).astype("float32")
    maps = scores(coarse, x)
    scale = np.abs(maps).max()
    np.testing.assert_allclose(scores(dense, x)[:, ::4, ::4] / scale, maps / scale, atol=NET)


def test_rates_of_deeplab():
    # arXiv:1706.05587, section 3.2: 2 * (1, 2, 4) at output stride 16. Here the first convolution
    # of the stage comes before the stride that dilation replaces, and keeps the rate before it.
    architecture = Architecture(
        units=(3, 4, 6, 3),
        channels=(256, 512, 1024, 2048),
        strides=(1, 2, 2, 2),
        output_stride=16,
        multi_grid=(1, 2, 4),
    )
    units = architecture.stages[5]
    assert [unit.dilation_after for unit in units] == [2, 4, 8]
    assert [unit.dilation for unit in units] == [1, 4, 8]
    assert {unit.dilation for unit in architecture.stages[4]} == {1}


def test_units_of_one_rate_run_as_one_loop():
    fields = {"units": (1, 5), "scan_units": True, "multi_grid": (2, 2, 2, 4, 4)}
    stacks = [layer for layer in net(fields).layers if isinstance(layer, StackedUnits)]
    assert [layer.name for layer in stacks] == ["stage3_unit2to3", "stage3_unit4to5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dilations": (1,)}, r"`dilations` must be None or one .*2 stages. Received: \(1,\)"),
        ({"dilations": (1, 0)}, "`dilations` must be None or a sequence of positive integers"),
        ({"multi_grid": (1, 2, 4, 8)}, "`multi_grid` must be no longer than the last stage"),
        ({"multi_grid": ()}, "`multi_grid` must be None or a sequence of positive integers"),
        ({"blur_pool": 1}, "`blur_pool` must be one of"),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        net(changes)


def test_fields_come_back_from_json():
    fields = {"units": (1, 2), "channels": (8, 16), "strides": (1, 1)}
    architecture = Architecture(**fields, dilations=[1, 2], multi_grid=[1, 2])
    assert Architecture.from_config(architecture.get_config()) == architecture
    assert hash(architecture) == hash(architecture.replace())
