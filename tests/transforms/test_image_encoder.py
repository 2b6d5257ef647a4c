"""Nets as image encoders of keras_hub: its own models train on them, and are saved with them."""

from __future__ import annotations

import re
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

import keras_preact
from keras_preact import as_image_encoder
from tests import nets

ARCHITECTURE = nets.FOUR_STAGES.replace(units=(1, 2, 1, 1))
X = nets.images(2, 64, 64, 3)


def _encoder(**changes: Any) -> keras.Model:
    model = nets.net(
        changes, architecture=ARCHITECTURE, include_top=False, input_shape=(None, None, 3)
    )
    return as_image_encoder(model)


def _arrays(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(model(X))]


def _check_training_and_saving(task: keras.Model, y: Any, kind: type, folder) -> None:
    """Check that a step changes every kernel, and that copies give the same outputs."""
    encoder = getattr(task.backbone, "image_encoder", task.backbone)
    kernels = [each for each in encoder.trainable_variables if len(each.shape) > 1]
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    history = task.fit(X, y, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, kernel in zip(before, kernels, strict=True):
        assert not np.array_equal(old, keras.ops.convert_to_numpy(kernel)), kernel.path
    task.save(folder / "task.keras")
    task.save_to_preset(str(folder / "preset"))
    expected = _arrays(task)
    for copy in (
        keras.saving.load_model(folder / "task.keras", compile=False),
        kind.from_preset(str(folder / "preset")),
    ):
        assert type(copy) is type(task)
        for received, each in zip(_arrays(copy), expected, strict=True):
            np.testing.assert_array_equal(received, each)


def test_deeplab_v3_plus(tmp_path):
    backbone = keras_hub.models.DeepLabV3Backbone(
        _encoder(output_stride=16),
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[2],
        low_level_feature_key="P2",
    )
    task = keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=3, activation="softmax")
    task.compile("sgd", "sparse_categorical_crossentropy", metrics=[], run_eagerly=True)
    assert task.output_shape == (None, None, None, 3)
    labels = np.random.default_rng(0).integers(0, 3, (2, 64, 64))
    _check_training_and_saving(task, labels, keras_hub.models.ImageSegmenter, tmp_path)


def test_retinanet(tmp_path):
    backbone = keras_hub.models.RetinaNetBackbone(_encoder(), min_level=4, max_level=6, use_p5=True)
    task = keras_hub.models.RetinaNetObjectDetector(
        backbone, num_classes=2, bounding_box_format="yxyx", pre_logits_num_conv_layers=1
    )
    task.compile("sgd", box_loss="auto", classification_loss="auto", run_eagerly=True)
    # The smallest anchors have 64 x 64 pixels.
    boxes = np.array([[[0, 0, 62, 60]], [[4, 2, 64, 64]]], "float32")
    y = {"boxes": boxes, "labels": np.array([[0], [1]])}
    _check_training_and_saving(task, y, keras_hub.models.ObjectDetector, tmp_path)


def test_image_classifier(tmp_path):
    task = keras_hub.models.ImageClassifier(_encoder(), num_classes=4)
    task.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    kind = keras_hub.models.ImageClassifier
    _check_training_and_saving(task, np.array([0, 3]), kind, tmp_path)
    (expected,) = _arrays(task)
    # keras_hub's way to load in another precision.
    copy = kind.from_preset(str(tmp_path / "preset"), dtype="bfloat16")
    assert copy.backbone.dtype_policy.name == "bfloat16"
    assert {each.dtype for each in copy.backbone.weights} == {"bfloat16"}
    (received,) = _arrays(copy)
    np.testing.assert_allclose(
        received.astype("float32"), expected, atol=0.1 * np.abs(expected).max()
    )


def test_stacked_units_in_another_precision(tmp_path):
    """As keras_hub loads a preset with a `dtype`."""
    encoder = _encoder(scan_units=True, units=(1, 3, 1, 1))
    encoder.save_weights(tmp_path / "model.weights.h5")
    copy = type(encoder).from_config({**encoder.get_config(), "dtype": "bfloat16"})
    copy.load_weights(tmp_path / "model.weights.h5")
    assert {each.dtype for each in copy.weights} == {"bfloat16"}
    (expected,), (received,) = _arrays(encoder), _arrays(copy)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(received.astype("float32"), expected, atol=0.1 * scale)


def test_levels_are_those_of_keras_hubs_resnet_v2():
    theirs = keras_hub.models.ResNetBackbone(
        [64],
        [7],
        [64, 64, 64, 64],
        [1, 1, 1, 1],
        [1, 2, 2, 2],
        "basic_block",
        use_pre_activation=True,
        image_shape=(96, 64, 3),
    )
    model = nets.net(architecture=ARCHITECTURE, include_top=False, input_shape=(96, 64, 3))
    ours = as_image_encoder(model)
    assert [(level, each.shape[:3]) for level, each in ours.pyramid_outputs.items()] == [
        (level, each.shape[:3]) for level, each in theirs.pyramid_outputs.items()
    ]
    assert (ours.data_format, ours.image_shape) == (theirs.data_format, theirs.image_shape)
    assert ours.output_shape[:3] == theirs.output_shape[:3]


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({"output_stride": 16}, {"P2": 8, "P3": 12, "P4": 20}),
        ({"strides": (2, 2, 2, 1), "stride_unit": "last"}, {"P2": 8, "P3": 8, "P4": 12, "P5": 20}),
        ({"stem": "cifar"}, {"P0": 8, "P1": 12, "P2": 16, "P3": 20}),
        ({"scan_units": True, "units": (1, 3, 1, 1)}, {"P2": 8, "P3": 12, "P4": 16, "P5": 20}),
    ],
)
def test_a_level_is_the_last_map_of_its_stride(changes, levels):
    encoder = _encoder(**changes)
    assert {level: each.shape[-1] for level, each in encoder.pyramid_outputs.items()} == levels
    maps = keras.Model(encoder.inputs, encoder.pyramid_outputs)(X)
    for level, each in maps.items():
        assert each.shape[1] == 64 / 2 ** int(level[1])
    # The last level is the output.
    np.testing.assert_array_equal(each, encoder(X))


def test_maps_are_those_of_the_stages_and_weights_are_shared():
    model = nets.net(architecture=ARCHITECTURE, input_shape=(64, 64, 3))
    encoder = as_image_encoder(model)
    expected = keras_preact.feature_extractor(model)(X)
    received = keras.Model(encoder.inputs, encoder.pyramid_outputs)(X)
    for level, stage in zip(("P2", "P3", "P4", "P5"), expected, strict=True):
        np.testing.assert_array_equal(received[level], expected[stage])
    assert encoder.get_layer("stem_conv") is model.get_layer("stem_conv")


def test_maps_before_a_transformer_encoder():
    model = nets.net(
        {"encoder_depth": 1, "encoder_width": 16, "encoder_heads": 2},
        architecture=ARCHITECTURE,
        input_shape=(64, 64, 3),
    )
    encoder = as_image_encoder(model)
    assert encoder.output_shape == (None, 2, 2, 20)
    assert encoder.pyramid_outputs["P5"].shape == (None, 2, 2, 20)


def test_order_of_axes_and_precision():
    model = nets.net(
        architecture=ARCHITECTURE,
        input_shape=(3, 64, 64),
        data_format="channels_first",
        dtype="mixed_bfloat16",
    )
    encoder = as_image_encoder(model)
    assert encoder.data_format == "channels_first"
    assert encoder.image_shape == (3, 64, 64)
    assert encoder.dtype_policy.name == "mixed_bfloat16"


def test_refused():
    with pytest.raises(ValueError, match="powers of two.*'stage3': 12, .*'preact_resnet'"):
        _encoder(strides=(1, 3, 2, 2))
    with pytest.raises(ValueError, match="`model` must be a net of keras_preact"):
        as_image_encoder(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    net = nets.net(architecture=nets.TINY, name="body")
    inner = keras.Sequential([keras.Input((16, 16, 3)), net], name="inner")
    model = keras.Sequential([keras.Input((16, 16, 3)), inner])
    with pytest.raises(ValueError, match=r"which holds \['inner/body'\]: give `.*`") as raised:
        as_image_encoder(model)
    (advice,) = re.findall("give `(.*)`", str(raised.value))
    assert eval(advice, {"keras_preact": keras_preact, "model": model}) is net
