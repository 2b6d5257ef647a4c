"""The fields of `Architecture` that published checkpoints need: what each changes in a net."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Architecture
from keras_preact.weights import named_weights, set_named_weights

SMALL = Architecture(
    units=(2, 3),
    channels=(32, 64),
    strides=(1, 2),
    stem="cifar",
    stem_channels=16,
    norm_groups=8,
)
VARIANTS = {
    "group norm": {"norm": "group"},
    "EvoNorm-S0": {"norm": "evonorm_s0", "activation": "linear"},
    "weight standardisation": {"norm": "group", "weight_standardization": True},
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
X = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")


def _net(changes: dict, **options) -> keras.Model:
    keras.utils.set_random_seed(0)
    architecture = SMALL.replace(**changes)
    model = keras_preact.PreActResNet(architecture, input_shape=X.shape[1:], classes=10, **options)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def _scores(model: keras.Model, x: np.ndarray = X) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_trains_saves_and_loads(changes, tmp_path):
    model = _net(changes)
    model.compile("sgd", "sparse_categorical_crossentropy")
    kernels = keras_preact.decayed_variables(model)
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    model.train_on_batch(X, np.array([1, 2]))
    for old, kernel in zip(before, kernels, strict=True):
        assert not np.array_equal(old, keras.ops.convert_to_numpy(kernel)), kernel.path
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    np.testing.assert_array_equal(_scores(loaded), _scores(model))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_channels_first_and_scanned_nets_give_the_same_scores(changes):
    model = _net(changes)
    named = named_weights(model)
    scanned = _net({**changes, "scan_units": True, "units": (4, 4)})
    flat = _net({**changes, "scan_units": False, "units": (4, 4)})
    set_named_weights(scanned, named_weights(flat))
    np.testing.assert_allclose(_scores(scanned), _scores(flat), atol=1e-5)
    assert any(isinstance(layer, keras_preact.layers.StackedUnits) for layer in scanned.layers)

    keras.utils.set_random_seed(0)
    first = keras_preact.PreActResNet(
        SMALL.replace(**changes), input_shape=(3, 32, 32), classes=10, data_format="channels_first"
    )
    set_named_weights(first, named)
    np.testing.assert_allclose(_scores(first, X.transpose(0, 3, 1, 2)), _scores(model), atol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_mixed_precision_and_xla_stay_close(changes):
    model = _net(changes, classifier_activation=None)
    mixed = _net(changes, classifier_activation=None, dtype="mixed_bfloat16")
    set_named_weights(mixed, named_weights(model))
    scores = _scores(model)
    np.testing.assert_allclose(_scores(mixed), scores, atol=0.05 * np.abs(scores).max())
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(model, jit_compile=True)
        np.testing.assert_allclose(compiled(X), scores, atol=1e-4 * np.abs(scores).max())


@pytest.mark.parametrize("stride_in", ["first_conv", "spatial_conv"])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("downsample", ["conv", "subsample"])
def test_dilation_computes_the_same_pixels_more_densely(unit, stride_in, downsample):
    layout = {"strides": (2, 2), "units": (2, 2), "unit": unit, "stride_in": stride_in}
    if downsample == "subsample":
        layout["stride_unit"] = "last"
    coarse = _net({**layout, "downsample": downsample}, include_top=False)
    dense = _net({**layout, "downsample": downsample, "output_stride": 1}, include_top=False)
    set_named_weights(dense, named_weights(coarse))
    assert keras_preact.feature_extractor(dense).strides == {"stage2": 1, "stage3": 1}
    np.testing.assert_allclose(_scores(dense)[:, ::4, ::4], _scores(coarse), atol=1e-4)


def test_standardised_kernels_ignore_scale_and_shift():
    model = _net({"norm": "group", "weight_standardization": True})
    scores = _scores(model)
    for layer in model.layers:
        if isinstance(layer, keras_preact.layers.StandardizedConv2D):
            layer.kernel.assign(3 * layer.kernel + 0.5)
    np.testing.assert_allclose(_scores(model), scores, atol=1e-5)


def test_biases_stand_where_no_normalisation_follows():
    model = _net({"use_bias": "unnormalized"})
    biased = {
        layer.name
        for layer in model.layers
        if isinstance(layer, keras_preact.layers.Conv2D) and layer.use_bias
    }
    expected = {"stem_conv", "stage2_unit1_shortcut", "stage3_unit1_shortcut"}
    expected |= {f"stage2_unit{unit}_conv3" for unit in (1, 2)}
    assert biased == expected | {f"stage3_unit{unit}_conv3" for unit in (1, 2, 3)}


def test_group_statistics_are_those_of_each_image():
    model = _net({"norm": "evonorm_s0", "activation": "linear"})
    np.testing.assert_allclose(_scores(model)[:1], _scores(model, X[:1]), atol=1e-5)
