"""Per-stage feature maps."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from tests.nets import TINY

X = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")


def test_strides_and_shapes_of_an_imagenet_net():
    net = keras_preact.PreActResNet18(include_top=False, weights=None, input_shape=(64, 96, 3))
    features = keras_preact.feature_extractor(net, stages=(1, 2, 3, 4, 5))
    assert features.strides == {"stage1": 4, "stage2": 4, "stage3": 8, "stage4": 16, "stage5": 32}
    for name, features_map in features.output.items():
        stride = features.strides[name]
        assert features_map.shape[1:3] == (64 // stride, 96 // stride)


def test_every_stage_but_the_stem_by_default():
    features = keras_preact.feature_extractor(keras_preact.PreActResNet20())
    assert features.strides == {"stage2": 1, "stage3": 2, "stage4": 4}


def test_strides_with_channels_first():
    net = keras_preact.PreActResNet20(include_top=False, data_format="channels_first")
    assert keras_preact.feature_extractor(net).strides == {"stage2": 1, "stage3": 2, "stage4": 4}


@pytest.mark.parametrize(
    ("before", "strides"),
    [
        (keras.layers.UpSampling2D(2), {"stage2": 0.5, "stage3": 1}),
        (keras.layers.Conv2DTranspose(3, 3, strides=2), {"stage2": 0.5, "stage3": 1}),
        (keras.layers.Resizing(8, 16), {"stage2": 2, "stage3": 4}),
        (lambda x: keras.ops.image.resize(x, (8, 16)), {"stage2": 2, "stage3": 4}),
        (keras.layers.Resizing(16, 16, crop_to_aspect_ratio=True), {"stage2": 1, "stage3": 2}),
        (keras.layers.Resizing(8, 8, pad_to_aspect_ratio=True), {"stage2": 4, "stage3": 8}),
        (lambda x: keras.ops.average_pool(x, 2), {"stage2": 2, "stage3": 4}),
        (lambda x: keras.ops.max_pool(x, 3, strides=2), {"stage2": 2, "stage3": 4}),
        (
            lambda x: keras.ops.conv_transpose(x, np.ones((2, 2, 3, 3)), strides=2),
            {"stage2": 0.5, "stage3": 1},
        ),
        (lambda x: x[..., ::-1], {"stage2": 1, "stage3": 2}),
        (keras.layers.CenterCrop(8, 8), {"stage2": 1, "stage3": 2}),
        (keras.layers.Lambda(lambda x: x / 2), {"stage2": 1, "stage3": 2}),
        (
            lambda x: keras.ops.transpose(keras.layers.Permute((3, 1, 2))(x), (0, 2, 3, 1)),
            {"stage2": 1, "stage3": 2},
        ),
        (lambda x: x[:, ::2, ::2], None),
        (keras.layers.CenterCrop(64, 64), None),
        (keras.layers.Reshape((32, 16, 3)), None),
        (keras.layers.Lambda(lambda x: x[:, ::2, ::2]), None),
        (lambda x: keras.ops.repeat(keras.ops.repeat(x, 2, axis=1), 2, axis=2), None),
        (keras.layers.Resizing(8, 8), None),
        (keras.layers.UpSampling2D((1, 2)), None),
    ],
)
def test_strides_count_pixels_of_images_that_are_resized(before, strides):
    net = keras_preact.PreActResNet(TINY, include_top=False, input_shape=(None, None, 3))
    inputs = keras.Input((16, 32, 3))
    features = keras_preact.feature_extractor(keras.Model(inputs, net(before(inputs))))
    if strides:
        assert features.strides == strides
        return
    with pytest.raises(ValueError, match=r"same down and across.*Received: \(None, (16|32), 32"):
        features.strides  # noqa: B018


def test_strides_of_images_that_are_resized_from_any_size():
    net = keras_preact.PreActResNet(TINY, include_top=False, input_shape=(16, 16, 3))
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Resizing(16, 16), net])
    with pytest.raises(ValueError, match="'resizing.*their size must be known"):
        keras_preact.feature_extractor(model).strides  # noqa: B018


def test_strides_behind_functions_of_images_of_any_size():
    """An example tells whether a layer keeps a size that is not known."""
    net = keras_preact.PreActResNet(TINY, include_top=False)

    def features(function) -> keras_preact.FeatureExtractor:
        layer = keras.layers.Lambda(function, name="function")
        model = keras.Sequential([keras.Input((None, None, 3)), layer, net])
        return keras_preact.feature_extractor(model)

    assert features(lambda x: x / 2).strides == {"stage2": 1, "stage3": 2}
    with pytest.raises(ValueError, match="'function'.*no `strides`, it keeps their size"):
        features(lambda x: x[:, ::2, ::2]).strides  # noqa: B018


def test_maps_are_what_the_next_layers_see():
    net = keras_preact.PreActResNet20()
    maps = keras_preact.feature_extractor(net)(X)
    raw = keras.Model(net.input, net.get_layer("stage2_unit3_add").output)(X)
    norm, act = (net.get_layer(f"stage3_unit1_{part}1") for part in ("norm", "act"))
    np.testing.assert_array_equal(maps["stage2"], act(norm(raw)))
    head = keras.layers.GlobalAveragePooling2D()(maps["stage4"])
    np.testing.assert_allclose(net.get_layer("predictions")(head), net(X), atol=1e-6)


def test_saving(tmp_path):
    features = keras_preact.feature_extractor(keras_preact.PreActResNet20(), stages=(3,))
    features.save(tmp_path / "features.keras")
    copy = keras.saving.load_model(tmp_path / "features.keras")
    assert copy.strides == {"stage3": 2}
    np.testing.assert_array_equal(features(X)["stage3"], copy(X)["stage3"])


def test_stages_that_do_not_exist():
    with pytest.raises(ValueError, match=r"has \(1, 2, 3, 4\). Received: \(2, 5\)"):
        keras_preact.feature_extractor(keras_preact.PreActResNet20(), stages=(2, 5))


def test_a_model_of_someone_else():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(ValueError, match="must be a net of keras_preact.*'other'"):
        keras_preact.feature_extractor(other)
