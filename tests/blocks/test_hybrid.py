"""A transformer encoder on a net's last maps: hybrid ViTs, against timm's."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

import keras_preact
from keras_preact import transforms
from keras_preact.weights import convert, named_weights, set_named_weights
from keras_preact.weights.converters import CONVERTERS
from keras_preact.weights.loader import adapt_positions
from tests.nets import SMALL, X, net, scores
from tests.variants import check_forms, check_training_and_saving

ENCODER = {"units": (1, 1), "encoder_depth": 2, "encoder_width": 24, "encoder_heads": 3}
REGULARIZED = {**ENCODER, "encoder_dropout": 0.2, "encoder_drop_path": 0.3}
# As SMALL, but with blocks enough to see the order of their drop path rates.
BLOCKS = {**ENCODER, "encoder_depth": 5, "encoder_drop_path": 0.4}


@pytest.fixture(scope="module")
def plain() -> keras.Model:
    """Return a net for tests that change nothing."""
    return net(ENCODER)


def _timm(name: str, **options) -> torch.nn.Module:
    """Return a net of timm's with no weight at its first value, its scores far from zero."""
    torch.manual_seed(0)
    # timm's own first values take seconds to draw.
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, **options).eval()
    model.to_empty(device="cpu")
    for key, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            torch.nn.init.uniform_(tensor, *((0.5, 1.5) if key.endswith("weight") else (-0.5, 0.5)))
        else:
            bound = (3 / tensor[0].numel()) ** 0.5
            torch.nn.init.uniform_(tensor, -bound, bound)
    for tensor in (model.cls_token, model.pos_embed, *model.head.parameters()):
        torch.nn.init.normal_(tensor)
    return model


@torch.inference_mode()
def _check_equal(ours: keras.Model, theirs: torch.nn.Module) -> None:
    shape = (1, *ours.input_shape[1:])
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    tokens = theirs.forward_features(torch.tensor(x.transpose(0, 3, 1, 2)))
    expected = (tokens.numpy(), theirs.forward_head(tokens).numpy())
    both = keras.Model(ours.input, [ours.get_layer("encoder_norm").output, ours.output])
    for own, each in zip(both(x), expected, strict=True):
        scale = np.abs(each).max()
        own = keras.ops.convert_to_numpy(own)
        np.testing.assert_allclose(own / scale, each / scale, atol=1e-4)


def _save(model: torch.nn.Module, folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "builder", "parameters"),
    [
        ("vit_small_r26_s32_224", "PreActViTHybrid_R26_S32", 36_431_912),
        ("vit_base_r50_s16_224", "PreActViTHybrid_R50_B16", 98_659_112),
    ],
)
def test_same_weights_give_the_same_tokens_and_scores(name, builder, parameters, tmp_path):
    theirs = _timm(name, num_classes=1000)
    assert sum(each.numel() for each in theirs.parameters()) == parameters
    ours = keras_preact.BUILDERS[builder](weights=None, classifier_activation=None)
    assert ours.count_params() == parameters
    set_named_weights(ours, CONVERTERS["timm"](_save(theirs, tmp_path)))
    _check_equal(ours, theirs)


def test_the_large_hybrid_with_fewer_blocks_and_another_size(tmp_path):
    # The same kinds of layer as the whole net, at a price that every run can pay.
    options = {"depth": 1, "img_size": (64, 96), "num_classes": 7}
    theirs = _timm("vit_base_r50_s16_224", **options)
    ours = keras_preact.PreActViTHybrid_R50_B16(
        weights=None,
        input_shape=(64, 96, 3),
        classes=7,
        classifier_activation=None,
        encoder_depth=1,
    )
    set_named_weights(ours, CONVERTERS["timm"](_save(theirs, tmp_path)))
    _check_equal(ours, theirs)


def test_timms_files_of_any_size_are_identified_and_converted(tmp_path):
    theirs = _timm("vit_small_r26_s32_224", img_size=96, num_classes=3)
    target = tmp_path / "hybrid.weights.h5"
    assert convert(_save(theirs, tmp_path), target) == "PreActViTHybrid_R26_S32"
    ours = keras_preact.PreActViTHybrid_R26_S32(
        weights=target, input_shape=(96, 96, 3), classes=3, classifier_activation=None
    )
    _check_equal(ours, theirs)


def test_trains_saves_and_loads(tmp_path):
    check_training_and_saving(
        {**REGULARIZED, "order": "original", "norm": "group", "padding": "same"}, tmp_path
    )


def test_every_form_gives_the_same_scores():
    check_forms({**ENCODER, "units": (1, 3)})


@pytest.mark.parametrize("rematerialize", [True, False])
def test_nested_blocks_give_the_same_scores(rematerialize, plain, tmp_path):
    model = plain
    nested = net({**ENCODER, "rematerialize": rematerialize}, nested=not rematerialize)
    assert {"encoder_block1", "encoder_block2"} <= {layer.name for layer in nested.layers}
    set_named_weights(nested, named_weights(model))
    np.testing.assert_allclose(scores(nested), scores(model), atol=1e-5)
    resized = (
        scores(transforms.resize_input(each, 8, 12), X[:, :8, :12]) for each in (nested, model)
    )
    np.testing.assert_allclose(*resized, atol=1e-5)
    assert set(keras_preact.layer_depths(nested).values()) == {0, 1, 2, 3, 4, 5, 6}
    transforms.freeze(nested, 4)
    assert len(nested.trainable_variables) == 2
    np.testing.assert_allclose(scores(transforms.fold(nested)), scores(model), atol=1e-4)
    if rematerialize:
        check_training_and_saving({**ENCODER, "rematerialize": True}, tmp_path)


def test_the_encoder_takes_activated_maps_and_adds_positions():
    model = net({**ENCODER, "encoder_depth": 1})
    tokens = model.get_layer("encoder_tokens")
    maps = keras.Model(model.input, tokens.input)(X)
    assert tokens.input.shape == (None, 8, 8, 24)
    assert model.get_layer("encoder_proj").input is model.get_layer("head_act").output
    class_token, positions = map(keras.ops.convert_to_numpy, tokens.weights)
    expected = np.concatenate([np.repeat(class_token, 2, 0), np.reshape(maps, (2, 64, 24))], 1)
    received = keras.Model(model.input, tokens.output)(X)
    np.testing.assert_allclose(received, expected + positions, atol=1e-5)


def test_stochastic_depth_grows_from_zero_to_its_rate():
    rates = {
        layer.name: layer.rate
        for layer in net(BLOCKS).layers
        if isinstance(layer, keras_preact.layers.DropPath)
    }
    assert "encoder_block1_drop_path1" not in rates
    for block in range(2, 6):
        for branch in (1, 2):
            rate = rates[f"encoder_block{block}_drop_path{branch}"]
            assert rate == pytest.approx(0.1 * (block - 1))


def test_dropout_stands_after_positions_and_dense_layers(plain):
    model = net(REGULARIZED)
    before = [
        layer.input._keras_history.operation.name
        for layer in model.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    blocks = [
        f"encoder_block{block}_{part}" for block in (1, 2) for part in ("proj", "act", "mlp2")
    ]
    assert before == ["encoder_tokens", *blocks]
    model.set_weights(plain.get_weights())
    np.testing.assert_array_equal(scores(model), scores(plain))


@pytest.mark.parametrize("pooling", [None, "token", "avg", "max"])
def test_without_the_top(pooling, plain):
    whole = plain
    tokens = keras.Model(whole.input, whole.get_layer("encoder_norm").output)(X)
    tokens = keras.ops.convert_to_numpy(tokens)
    model = net(ENCODER, include_top=False, pooling=pooling)
    named = named_weights(whole)
    named.pop("predictions")
    set_named_weights(model, named)
    expected = {
        None: tokens,
        "token": tokens[:, 0],
        "avg": tokens[:, 1:].mean(1),
        "max": tokens[:, 1:].max(1),
    }[pooling]
    np.testing.assert_allclose(scores(model), expected, atol=1e-5)
    # A top put on again is that of the whole net.
    topped = transforms.replace_head(model, 10)
    topped.get_layer("predictions").set_weights(whole.get_layer("predictions").get_weights())
    if pooling in (None, "token"):
        np.testing.assert_allclose(scores(topped), scores(whole), atol=1e-5)


def test_features_are_the_maps_of_the_stages():
    model = net({**ENCODER, "order": "original"})
    features = keras_preact.feature_extractor(model)
    assert features.strides == {"stage2": 1, "stage3": 2}
    maps = features(X)
    np.testing.assert_array_equal(
        maps["stage3"], keras.Model(model.input, model.get_layer("encoder_proj").input)(X)
    )
    assert maps["stage3"].shape == (2, 8, 8, 64)


def test_the_encoder_freezes_as_one_more_stage():
    model = net(ENCODER)
    transforms.freeze(model, 3)
    names = {variable.path.split("/")[0] for variable in model.trainable_variables}
    assert all(name.startswith(("encoder_", "predictions")) for name in names)
    assert len(names) == 4 + 2 * 6  # two around the blocks, the last norm, predictions
    transforms.freeze(model, 4)
    assert {each.path for each in model.trainable_variables} == {
        "predictions/kernel",
        "predictions/bias",
    }
    with pytest.raises(ValueError, match="Received: 5"):
        transforms.freeze(model, 5)


def test_depths_count_each_block(plain):
    depths = keras_preact.layer_depths(plain)
    groups = {
        "stem_": 0,
        "stage2": 1,
        "stage3": 2,
        "head_norm": 6,
        "encoder_proj": 3,
        "encoder_tokens": 3,
        "encoder_block1": 4,
        "encoder_block2": 5,
        "encoder_norm": 6,
        "predictions": 6,
    }
    for path, depth in depths.items():
        assert depth == next(groups[part] for part in groups if path.startswith(part)), path


def test_weight_decay_leaves_tokens_and_positions_alone(plain):
    decayed = {each.path for each in keras_preact.decayed_variables(plain)}
    assert "encoder_block1_qkv/kernel" in decayed
    assert not any("tokens" in path or "norm" in path for path in decayed)


def test_another_precision_is_that_of_a_net_built_with_it(plain):
    half = transforms.with_dtype(plain, "mixed_bfloat16")
    built = net(ENCODER, dtype="mixed_bfloat16")
    for layer in built.layers[1:]:
        assert half.get_layer(layer.name).dtype_policy == layer.dtype_policy, layer.name
    assert half.get_layer("encoder_block1_qkv").compute_dtype == "bfloat16"
    assert half.output.dtype == "float32"


def test_folding_leaves_out_what_only_training_needs():
    model = net({**REGULARIZED, "order": "original", "weight_standardization": True})
    folded = transforms.fold(model)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert not kinds & {"Dropout", "DropPath", "BatchNormalization", "StandardizedConv2D"}
    np.testing.assert_allclose(scores(folded), scores(model), atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports with TensorFlow")
def test_an_export_gives_the_same_probabilities_and_the_class_token(plain, tmp_path):
    import tensorflow as tf

    model = plain
    preprocessing = keras_preact.preprocessing.Preprocessing(
        input_size=16,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_fraction=1.0,
        interpolation="bicubic",
    )
    path = keras_preact.export_savedmodel(
        model, tmp_path / "1", preprocessing=preprocessing, warm_up_batch_sizes=()
    )
    loaded = tf.saved_model.load(str(path))
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    received = loaded.signatures["serving_default"](images=tf.constant(images))
    expected = scores(model, (images / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(received["probabilities"], expected, atol=1e-5)
    file = tf.io.encode_png(images[0].astype("uint8"))[None]
    features = loaded.signatures["features"](image_bytes=file)
    assert features["embedding"].shape == (1, ENCODER["encoder_width"])
    assert features["stage3"].shape == (1, 8, 8, 64)


@pytest.mark.parametrize("size", [(24, 16), (8, 12), (8, 32)], ids=str)
def test_positions_are_resized_as_timm_does(size):
    model = net(ENCODER)
    resized = transforms.resize_input(model, *size)
    assert resized.input_shape == (None, *size, 3)
    before, after = (each.get_layer("encoder_tokens").get_weights()[1] for each in (model, resized))
    rng = np.random.default_rng(0)
    before = rng.standard_normal(before.shape).astype("float32")
    model.get_layer("encoder_tokens").positions.assign(before)
    after = transforms.resize_input(model, *size).get_layer("encoder_tokens").get_weights()[1]
    grid = [each // 2 for each in size]
    expected = resample_abs_pos_embed(torch.tensor(before), grid, (8, 8)).numpy()
    np.testing.assert_allclose(after, expected, atol=1e-5)
    x = rng.standard_normal((2, *size, 3)).astype("float32")
    assert scores(resized, x).shape == (2, 10)
    # Published weights are of one size, whatever the net's.
    named = named_weights(model)
    loaded = net(ENCODER, input_shape=(*size, 3))
    adapt_positions(named, loaded, (16, 16))
    set_named_weights(loaded, named)
    expected = transforms.resize_input(model, *size)
    np.testing.assert_array_equal(scores(loaded, x), scores(expected, x))
    # Those of images that may not be square are of the same images, 4 x 16 tokens among them.
    named = named_weights(expected)
    for image_size in (None, size):
        adapt_positions(named, loaded, image_size)
        set_named_weights(loaded, named)
        np.testing.assert_array_equal(scores(loaded, x), scores(expected, x))


def test_the_same_size_is_the_same_net(plain):
    np.testing.assert_array_equal(scores(transforms.resize_input(plain, 16, 16)), scores(plain))


@pytest.mark.parametrize("size", [(0, 16), (16, None), (16.0, 16)])
def test_wrong_sizes(size, plain):
    with pytest.raises(ValueError, match="must be positive integers. Received: height="):
        transforms.resize_input(plain, *size)


def test_positions_of_another_size_are_refused(plain, tmp_path):
    plain.save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(ValueError, match="'encoder_tokens' has weights of shapes"):
        net(ENCODER, input_shape=(32, 32, 3), weights=tmp_path / "small.weights.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_depth": -1}, "`encoder_depth` must be an integer of at least 0. Received: -1"),
        ({"encoder_depth": True}, "`encoder_depth` must be"),
        ({"encoder_depth": 1, "encoder_heads": 5}, "`encoder_heads` must be a divisor of"),
        ({"encoder_mlp_ratio": 1e-9}, "`encoder_mlp_ratio` must be large enough"),
        ({"encoder_drop_path": 1.0}, "`encoder_drop_path` must be a number in"),
    ],
)
def test_wrong_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)


def test_the_size_of_the_images_must_be_known():
    with pytest.raises(ValueError, match="`input_shape` must be known.*\\(None, None, 3\\)"):
        net(ENCODER, input_shape=(None, None, 3))
    assert net(ENCODER, input_shape=None, include_top=False).input_shape == (None, 32, 32, 3)


def test_poolings_of_tokens_are_not_those_of_maps():
    with pytest.raises(ValueError, match="`pooling` must be one of \\(None, 'avg', 'max'\\)"):
        net({}, include_top=False, pooling="token")
