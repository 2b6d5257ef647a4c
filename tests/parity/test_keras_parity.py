"""Keras's own pre-activation nets against ours, with the same random weights, read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import resnet
from keras.src.legacy.saving import legacy_h5_format

import keras_preact
from keras_preact.analysis import architecture_cost
from keras_preact.weights import set_named_weights
from keras_preact.weights.converters import CONVERTERS

X = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype("float32")
# Units of each stage: the first, which projects, the last, which strides, and one between them.
FEW = (2, 3, 2, 2)


def _randomize(model: keras.Model) -> None:
    """Make every bias, scale, shift and statistic random, so that none can hide."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif len(variable.shape) == 1:
            variable.assign(rng.uniform(-0.5, 0.5, variable.shape))


def _assert_equal(ours: np.ndarray, theirs: np.ndarray, atol: float) -> None:
    theirs = np.asarray(theirs)
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=atol)


def _old_weights(model: keras.Model, folder: Path) -> Path:
    """Return a file of weights in the format of the published ones."""
    path = folder / "weights.h5"
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path


def _old_model(model: keras.Model, folder: Path) -> Path:
    path = folder / "model.h5"
    model.save(path)
    return path


def _new_weights(model: keras.Model, folder: Path) -> Path:
    path = folder / "new.weights.h5"
    model.save_weights(path)
    return path


def _keras_net(units: Sequence[int], include_top: bool) -> keras.Model:
    keras.utils.set_random_seed(0)

    def stages(x: keras.KerasTensor) -> keras.KerasTensor:
        for stage, (channels, count) in enumerate(zip((64, 128, 256, 512), units, strict=True), 2):
            stride = 1 if stage == 5 else 2
            x = resnet.stack_residual_blocks_v2(x, channels, count, stride, name=f"conv{stage}")
        return x

    # With its own top, keras.applications takes no images but those of 224 x 224 pixels.
    model = resnet.ResNet(
        stages,
        preact=True,
        use_bias=True,
        weights=None,
        input_shape=X.shape[1:],
        include_top=False,
        pooling="avg",
    )
    if include_top:
        scores = keras.layers.Dense(10, name="predictions")(model.output)
        model = keras.Model(model.input, scores)
    _randomize(model)
    return model


@pytest.mark.parametrize(
    ("depth", "units", "include_top", "save"),
    [
        (50, FEW, True, _old_weights),
        (50, FEW, False, _old_weights),
        (101, FEW, True, _old_model),
        (152, FEW, False, _new_weights),
        pytest.param(101, (3, 4, 23, 3), False, _old_weights, marks=pytest.mark.slow),
        pytest.param(152, (3, 8, 36, 3), True, _old_weights, marks=pytest.mark.slow),
    ],
)
def test_same_scores_and_maps_as_keras_applications(depth, units, include_top, save, tmp_path):
    theirs = _keras_net(units, include_top)
    ours = keras_preact.BUILDERS[f"ResNet{depth}V2"](
        include_top,
        weights=None,
        input_shape=X.shape[1:],
        pooling="avg",
        classes=10,
        classifier_activation=None,
        units=units,
    )
    set_named_weights(ours, CONVERTERS["keras_applications"](save(theirs, tmp_path)))
    assert ours.count_params() == theirs.count_params()

    names = ("conv3_block1_preact_relu", "conv4_block1_preact_relu", "conv5_block1_preact_relu")
    maps = [theirs.get_layer(name).output for name in (*names, "post_relu")]
    expected = keras.Model(theirs.input, [*maps, theirs.output])(X)
    features = keras_preact.feature_extractor(ours)
    assert features.strides == {"stage2": 8, "stage3": 16, "stage4": 32, "stage5": 32}
    got = keras.Model(ours.input, [*features.output.values(), ours.output])(X)
    for own, each in zip(got, expected, strict=True):
        _assert_equal(own, each, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "trained"), [(50, 25_568_360), (101, 44_577_896), (152, 60_236_904)]
)
def test_nets_have_the_units_and_parameters_that_keras_publishes(depth, trained):
    architecture = keras_preact.BUILDERS[f"ResNet{depth}V2"].architecture
    assert 3 * sum(architecture.units) + 2 == depth
    assert architecture_cost(architecture).parameters == trained


def test_same_scores_as_keras_hub(tmp_path):
    models = pytest.importorskip("keras_hub", reason="keras_hub is not installed").models
    keras.utils.set_random_seed(0)
    backbone = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=list(FEW),
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
        use_pre_activation=True,
    )
    theirs = models.ResNetImageClassifier(backbone, num_classes=10)
    _randomize(theirs)
    path = tmp_path / "task.weights.h5"
    theirs.save_weights(path)
    ours = keras_preact.PreActResNet50(
        weights=None, input_shape=X.shape[1:], classes=10, classifier_activation=None, units=FEW
    )
    set_named_weights(ours, CONVERTERS["keras_hub"](path))
    _assert_equal(ours(X), theirs(X), atol=1e-4)
    # A preset's folder also holds only the backbone.
    backbone.save_weights(tmp_path / "model.weights.h5")
    without_top = CONVERTERS["keras_hub"](tmp_path / "model.weights.h5")
    assert without_top.keys() | {"predictions"} == CONVERTERS["keras_hub"](path).keys()
