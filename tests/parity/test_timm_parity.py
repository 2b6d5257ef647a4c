"""The ImageNet nets against timm's, with the same random weights, read from timm's file format."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

import keras_preact
from keras_preact.analysis import architecture_cost
from keras_preact.weights import set_named_weights
from keras_preact.weights.converters import CONVERTERS

X = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype("float32")
BUILDERS = {
    "resnetv2_18": "PreActResNet18",
    "resnetv2_18d": "PreActResNet18d",
    "resnetv2_34": "PreActResNet34",
    "resnetv2_34d": "PreActResNet34d",
    "resnetv2_50": "PreActResNet50",
    "resnetv2_50d": "PreActResNet50d",
    "resnetv2_50d_gn": "PreActResNet50d_GN",
    "resnetv2_50d_evos": "PreActResNet50d_EvoS",
    "resnetv2_50t": "PreActResNet50t",
    "resnetv2_101": "PreActResNet101",
    "resnetv2_152": "PreActResNet152",
    "resnetv2_50x1_bit": "BiTResNet50x1",
}
BIT = {
    "resnetv2_50x1_bit": "BiTResNet50x1",
    "resnetv2_50x3_bit": "BiTResNet50x3",
    "resnetv2_101x1_bit": "BiTResNet101x1",
    "resnetv2_101x3_bit": "BiTResNet101x3",
    "resnetv2_152x2_bit": "BiTResNet152x2",
    "resnetv2_152x4_bit": "BiTResNet152x4",
}
# Every kind of unit of a net once. Scores and maps are compared with these, on both sides, and the
# published units and widths by their numbers.
UNITS = (1, 2, 1, 1)
# Numbers of two digits among the units' names.
MANY_UNITS = (1, 1, 11, 1)
# The least channels that norms of 32 groups allow in bottlenecks.
CHANNELS = (128, 256, 512, 1024)


def _randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Make every scale, shift and statistic random, so that none can hide."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            scale = name.endswith(("weight", "running_var", ".v"))
            torch.nn.init.uniform_(tensor, *((0.5, 1.5) if scale else (-0.5, 0.5)))
    return model.eval()


def _timm(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return _randomize(timm.create_model(name, pretrained=False, **options))


def _transfer(theirs: torch.nn.Module, ours: keras.Model, folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(theirs.state_dict(), path)
    set_named_weights(ours, CONVERTERS["timm"](path))


def _assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=1e-4)


@torch.inference_mode()
def _scores_and_maps(model: torch.nn.Module) -> tuple[np.ndarray, list[np.ndarray]]:
    x = torch.tensor(X.transpose(0, 3, 1, 2))
    last, maps = model.forward_intermediates(x)
    # This opens the next stage; timm hands out the sum that comes before.
    following = [stage.blocks[0].norm1 for stage in model.stages[1:]]
    maps = [norm(each) for norm, each in zip(following, maps[1:-1], strict=True)]
    maps = [each.numpy().transpose(0, 2, 3, 1) for each in (*maps, last)]
    return model.forward_head(last).numpy(), maps


def _assert_same_net(theirs: torch.nn.Module, ours: keras.Model, folder: Path) -> None:
    _transfer(theirs, ours, folder)
    scores, maps = _scores_and_maps(theirs)
    extractor = keras_preact.feature_extractor(ours)
    both = keras.Model(ours.input, [ours.output, *extractor.output.values()])
    own_scores, *own_maps = both(X)
    _assert_equal(own_scores, scores)
    for own, each in zip(own_maps, maps, strict=True):
        _assert_equal(own, each)


def _ours(builder: str, **options) -> keras.Model:
    return keras_preact.BUILDERS[builder](
        weights=None,
        input_shape=X.shape[1:],
        classes=10,
        classifier_activation=None,
        **options,
    )


def _with_units(name: str, units: tuple, **options) -> tuple[torch.nn.Module, keras.Model]:
    """Return both nets with other units, and bottlenecks of half of the published channels."""
    builder = BUILDERS[name]
    if keras_preact.BUILDERS[builder].architecture.unit == "bottleneck":
        options["channels"] = CHANNELS
    theirs = _timm(name, layers=units, num_classes=10, **options)
    return theirs, _ours(builder, units=units, **options)


@pytest.mark.numerical
@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in BIT])
def test_same_weights_give_the_same_scores_and_maps(name, tmp_path):
    units = MANY_UNITS if name == "resnetv2_34" else UNITS
    theirs, ours = _with_units(name, units)
    _assert_same_net(theirs, ours, tmp_path)


def test_a_wide_net_with_fewer_units_and_channels(tmp_path):
    # A stem as narrow beside the channels as ever.
    stem_channels = 32
    theirs = ResNetV2(
        UNITS,
        CHANNELS,
        stem_chs=stem_channels,
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=1e-8),
        num_classes=10,
    )
    ours = _ours("BiTResNet50x1", units=UNITS, channels=CHANNELS, stem_channels=stem_channels)
    _assert_same_net(_randomize(theirs), ours, tmp_path)


@pytest.mark.parametrize("name", BIT)
def test_wide_nets_differ_by_the_published_units_and_channels(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False)
    assert keras_preact.BUILDERS[BIT[name]].architecture == (
        keras_preact.BiTResNet50x1.architecture.replace(
            stem_channels=theirs.stem.conv.out_channels,
            units=tuple(len(stage.blocks) for stage in theirs.stages),
            channels=tuple(stage.blocks[-1].conv3.out_channels for stage in theirs.stages),
        )
    )


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50"])
def test_same_maps_at_a_smaller_output_stride(name, stride, tmp_path):
    # Units that follow the one without its stride are dilated.
    theirs, ours = _with_units(name, (1, 1, 2, 2), output_stride=stride)
    _assert_same_net(theirs, ours, tmp_path)


@pytest.mark.parametrize("name", BUILDERS)
def test_same_number_of_parameters(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, pretrained=False)
    # Counted unit by unit, which the tests of costs hold against nets that are built.
    ours = architecture_cost(keras_preact.BUILDERS[BUILDERS[name]].architecture, (32, 32, 3))
    assert ours.parameters == sum(parameter.numel() for parameter in theirs.parameters())
