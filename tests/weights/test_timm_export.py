"""Weights that timm loads: its nets compute what ours do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import keras_preact
from keras_preact.weights import export_timm, named_weights
from keras_preact.weights.converters import CONVERTERS
from keras_preact.weights.converters.timm import (
    DENSENET,
    HYBRID,
    NF_RESNET,
    RESNETV2,
    Family,
    entries,
)
from keras_preact.weights.identify import ROUNDING, builder_of, difference
from keras_preact.weights.timm_export import NAMES, TimmNet, _arguments, adapted_modules
from tests import nets

SIZES = {"units": (1, 2, 1, 1), "channels": (32, 64, 96, 128), "stem_channels": 16}
# The least that norms of 32 groups allow.
WIDE = {"units": (1, 1, 1, 1), "channels": (128, 256, 384, 512), "stem_channels": 64}
ENCODER = {"units": (1, 1), "encoder_depth": 1, "encoder_width": 24, "encoder_heads": 3}


def _net(builder: str, changes: dict | None = None, **options) -> keras.Model:
    architecture = keras_preact.BUILDERS[builder].architecture
    options = {
        "input_shape": (64, 64, 3),
        "classes": 5,
        "classifier_activation": None,
        **options,
    }
    return nets.net(changes, architecture=architecture, **options)


@torch.inference_mode()
def _check_timm_loads(model: keras.Model, path: Path) -> str:
    """Check that timm's net with the exported weights has the same outputs; return its name."""
    net = export_timm(model, path)
    theirs = timm.create_model(net.name, checkpoint_path=str(path), **net.arguments).eval()
    shape = [64 if side is None else side for side in model.input_shape[1:]]
    x = nets.images(2, *shape)
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(nets.scores(model, x) / scale, expected / scale, atol=1e-4)
    return net.name


@pytest.mark.parametrize(
    ("builder", "changes", "options", "name"),
    [
        ("PreActResNet18", SIZES, {}, "resnetv2_18"),
        # Of the same widths, timm's basic units begin with an identity too.
        ("PreActResNet18", {**SIZES, "stem_channels": 32}, {}, "resnetv2_18"),
        ("PreActResNet34d", SIZES, {"input_shape": (64, 64, 1)}, "resnetv2_18d"),
        # Neither the form of the units nor what acts in training changes the net.
        (
            "PreActResNet50",
            {**SIZES, "units": (1, 3, 1, 1), "scan_units": True, "drop_path": 0.1},
            {"input_shape": (None, None, 3), "include_top": False, "pooling": "avg"},
            "resnetv2_50",
        ),
        ("PreActResNet50d", SIZES, {"classifier_activation": "linear"}, "resnetv2_50d"),
        ("PreActResNet50d_GN", WIDE, {}, "resnetv2_50d_gn"),
        ("PreActResNet50d_EvoS", WIDE, {}, "resnetv2_50d_evos"),
        # Of their own size.
        ("PreActResNet34", {}, {"classes": 1000}, "resnetv2_34"),
        pytest.param("BiTResNet50x1", {}, {}, "resnetv2_50x1_bit", marks=pytest.mark.slow),
        pytest.param("PreActDenseNet121", {}, {}, "densenet121", marks=pytest.mark.slow),
        pytest.param("NFPreActResNet50", {}, {}, "nf_resnet50", marks=pytest.mark.slow),
        pytest.param(
            "PreActViTHybrid_R26_S32",
            {},
            {"input_shape": (96, 96, 3)},
            "vit_small_r26_s32_224",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "PreActViTHybrid_R26_S32",
            {},
            {"input_shape": (64, 96, 3), "include_top": False, "pooling": "token"},
            "vit_small_r26_s32_224",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_timm_computes_the_same(builder, changes, options, name, tmp_path):
    model = _net(builder, changes, **options)
    assert _check_timm_loads(model, tmp_path / "model.safetensors") == name


def test_a_net_in_mixed_precision_has_its_weights_exported(tmp_path):
    model = _net("PreActResNet18", SIZES, dtype="mixed_bfloat16")
    export_timm(model, tmp_path / "mixed.safetensors")
    export_timm(_net("PreActResNet18", SIZES), tmp_path / "single.safetensors")
    mixed, single = (load_file(tmp_path / f"{name}.safetensors") for name in ("mixed", "single"))
    assert mixed.keys() == single.keys()
    assert all(torch.equal(mixed[name], single[name]) for name in single)


def test_a_new_head_of_zeros(tmp_path):
    model = _net("PreActResNet18", SIZES)
    head = model.get_layer("predictions")
    head.set_weights([np.zeros(each.shape) for each in head.weights])
    export_timm(model, tmp_path / "model.safetensors")
    assert not load_file(tmp_path / "model.safetensors")["head.fc.weight"].any()


@pytest.mark.parametrize(
    ("name", "options", "family"),
    [
        ("resnetv2_50d_evos", {"layers": (1, 1, 1, 1), "num_classes": 3}, RESNETV2),
        ("nf_resnet50", {"depths": (1, 1, 1, 1), "num_classes": 3, "skipinit": True}, NF_RESNET),
        ("vit_small_r26_s32_224", {"depth": 1, "img_size": 64, "num_classes": 3}, HYBRID),
    ],
)
def test_writing_is_the_inverse_of_reading(name, options, family, tmp_path):
    _check_round_trip(_numbers(name, options), family, tmp_path)


def test_torchvisions_files_have_the_names_of_its_first_version(tmp_path):
    state = _numbers("densenet121", {"block_config": (1, 2, 1, 1), "num_classes": 3})
    state = {key: each for key, each in state.items() if not key.endswith("num_batches_tracked")}
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    assert len({key for key in state if old.search(key)}) == 5 * 10
    _check_round_trip(state, DENSENET, tmp_path, lambda key: old.sub(r"\1.\2", key))


def _numbers(name: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights of a net of timm's, numbers from 0 on."""
    with torch.device("meta"):
        theirs = timm.create_model(name, **options)
    return {
        key: torch.arange(each.numel(), dtype=torch.float32).reshape(each.shape)
        for key, each in theirs.state_dict().items()
    }


def _check_round_trip(
    state: dict[str, torch.Tensor],
    family: Family,
    folder: Path,
    renamed: Callable[[str], str] = str,
) -> None:
    """Check that what is read of a file, under other names perhaps, is written as it was."""
    path = folder / "model.safetensors"
    save_file({renamed(key): each for key, each in state.items()}, path)
    tensors = entries(CONVERTERS["timm"](path), family)
    assert tensors.keys() == state.keys()
    for key, each in state.items():
        assert tensors[key].shape == each.shape, key
        np.testing.assert_array_equal(tensors[key], each.numpy())


def test_timm_adapts_the_modules_that_it_says():
    for builder, name in NAMES.items():
        architecture = keras_preact.BUILDERS[builder].architecture
        deep = architecture.stem in ("deep", "deep_unpooled", "tiered")
        named = {"stem_conv1" if deep else "stem_conv": {}, "predictions": {}}
        theirs = timm.get_pretrained_cfg(name)
        assert adapted_modules(TimmNet(name, {}), named) == {
            "first_conv": theirs.first_conv,
            "classifier": theirs.classifier,
        }, name


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_an_encoder_is_for_images_of_one_height_and_width(data_format):
    for size, expected in (((16, 24), (16, 24)), ((16, 16), 16)):
        shape = (3, *size) if data_format == "channels_first" else (*size, 3)
        model = nets.net(ENCODER, input_shape=shape, data_format=data_format)
        arguments = _arguments(model, named_weights(model), "vit_small_r26_s32_224")
        assert arguments == {"num_classes": 10, "img_size": expected}


def test_an_encoder_without_the_top_is_pooled_as_a_classifier_pools():
    architecture = nets.SMALL.replace(**ENCODER)
    for pooling, same in (("token", True), ("avg", False)):
        model = nets.net(ENCODER, include_top=False, pooling=pooling)
        distance = difference(model, named_weights(model), architecture)
        assert (distance <= ROUNDING) == same, pooling


def test_a_published_net_is_known_whatever_it_is_pooled_by():
    model = keras_preact.PreActResNet20(weights=None, include_top=False, pooling="max")
    assert builder_of(model, named_weights(model)) == "PreActResNet20"


@pytest.mark.parametrize(
    ("builder", "changes", "options", "reason"),
    [
        ("PreActResNet18", {**SIZES, "activation": "silu"}, {}, "resnetv2_18 has the same weights"),
        ("PreActResNet18", {**SIZES, "output_stride": 16}, {}, r"maps have the shape \(1, 2, 2"),
        ("PreActResNet18", SIZES, {"include_top": False, "pooling": "max"}, "and other outputs"),
        ("PreActResNet18", {"channels": (12, 24, 36, 48)}, {}, r"multiples of 8, not \[12, 36\]"),
        ("PreActResNet50", {**SIZES, "attention": "se"}, {}, "only given: .*_se_"),
        (
            "PreActResNet50d",
            {**SIZES, "stem_channels": 32},
            {},
            r"50d: its first unit has a projection .* `channels\[0\]`, 32",
        ),
        ("PreActResNet20", {}, {"input_shape": (32, 32, 3)}, r"basic units \(3, 3, 3\).*There are"),
        ("PreActDenseNet121", {"units": (1, 1, 1, 1)}, {}, "timm has no net like"),
    ],
)
def test_what_timm_has_not_is_refused_with_the_reason(builder, changes, options, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        export_timm(_net(builder, changes, **options), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_other_models_and_other_files_are_refused(tmp_path):
    model = _net("PreActResNet18", SIZES)
    with pytest.raises(ValueError, match=r"must end in .safetensors. Received: 'model.bin'"):
        export_timm(model, "model.bin")
    with pytest.raises(ValueError, match="one input and one output. Received: .* with 1 and 2"):
        export_timm(keras.Model(model.input, [model.output] * 2), tmp_path / "m.safetensors")
