"""The fields of `Architecture` that published checkpoints need: what each changes in a net."""

from __future__ import annotations

import numpy as np
import pytest

import keras_preact
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import X, net, scores
from tests.variants import check_forms, check_training_and_saving, some_slow

VARIANTS = {
    "group norm": {"norm": "group"},
    "EvoNorm-S0": {"norm": "evonorm_s0", "activation": "linear"},
    "weight standardization": {"norm": "group", "weight_standardization": True},
    "deep stem": {"stem": "deep", "downsample": "avg_pool"},
    "TF-slim": {
        "stride_unit": "last",
        "strides": (2, 1),
        "downsample": "subsample",
        "use_bias": "unnormalized",
    },
    "zero-padded pooling": {"stem": "imagenet", "zero_pad_pool": True},
    "output stride": {"output_stride": 1},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", some_slow(VARIANTS.values(), 3), ids=VARIANTS)
def test_every_form_gives_the_same_scores(changes):
    check_forms(changes)


@pytest.mark.parametrize("stride_in", ["first_conv", "spatial_conv"])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("downsample", ["conv", "subsample"])
def test_dilation_computes_the_same_pixels_more_densely(unit, stride_in, downsample):
    layout = {"strides": (2, 2), "units": (2, 2), "unit": unit, "stride_in": stride_in}
    if downsample == "subsample":
        layout["stride_unit"] = "last"
    coarse = net({**layout, "downsample": downsample}, include_top=False)
    dense = net({**layout, "downsample": downsample, "output_stride": 1}, include_top=False)
    set_named_weights(dense, named_weights(coarse))
    assert keras_preact.feature_extractor(dense).strides == {"stage2": 1, "stage3": 1}
    np.testing.assert_allclose(scores(dense)[:, ::4, ::4], scores(coarse), atol=1e-4)


def test_subsampling_is_exact_and_keeps_nothing_for_the_backward_pass():
    model = net({"stride_unit": "last", "downsample": "subsample"})
    pools = [each for each in model.layers if each.name.endswith("_shortcut_pool")]
    assert pools and not any("Max" in type(each).__name__ for each in pools)
    maps = np.random.default_rng(0).standard_normal((2, 5, 6, 3)).astype("float32")
    for pool in pools:
        np.testing.assert_array_equal(pool(maps), maps[:, ::2, ::2])


def test_standardized_kernels_ignore_scale_and_shift():
    model = net({"norm": "group", "weight_standardization": True})
    expected = scores(model)
    for layer in model.layers:
        if isinstance(layer, keras_preact.layers.StandardizedConv2D):
            layer.kernel.assign(3 * layer.kernel + 0.5)
    np.testing.assert_allclose(scores(model), expected, atol=1e-5)


def test_biases_stand_where_no_normalization_follows():
    model = net({"use_bias": "unnormalized"})
    biased = {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras_preact.layers.Conv2D) and layer.use_bias
    }
    expected = {"stem_conv", "stage2_unit1_shortcut", "stage3_unit1_shortcut"}
    expected |= {f"stage2_unit{unit}_conv3" for unit in (1, 2)}
    assert biased == expected | {f"stage3_unit{unit}_conv3" for unit in (1, 2, 3)}


def test_group_statistics_are_those_of_each_image():
    model = net({"norm": "evonorm_s0", "activation": "linear"})
    np.testing.assert_allclose(scores(model)[:1], scores(model, X[:1]), atol=1e-5)
