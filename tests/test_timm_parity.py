"""The ImageNet nets against timm's, with the same random weights."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import timm
import torch

import keras_preact

X = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype("float32")
PARAMETERS = {
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _randomized(name: str, **options) -> torch.nn.Module:
    """A net of timm's whose every weight and statistic is random, so that none can hide."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.uniform_(tensor, -0.5, 0.5)
    return model


def _timm_name(layer: str) -> str:
    """`stage3_unit2_conv1` -> `stages.1.blocks.1.conv1`."""
    fixed = {"stem_conv": "stem.conv", "head_norm": "norm", "predictions": "head.fc"}
    if layer in fixed:
        return fixed[layer]
    stage, unit, part = re.fullmatch(r"stage(\d+)_unit(\d+)_(\w+)", layer).groups()
    part = "downsample.conv" if part == "shortcut" else part
    return f"stages.{int(stage) - 2}.blocks.{int(unit) - 1}.{part}"


def _transfer(theirs: torch.nn.Module, ours: keras.Model) -> None:
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    for layer in ours.layers:
        for weight in layer.weights:
            if weight.name == "kernel":
                value = state.pop(f"{_timm_name(layer.name)}.weight").transpose(2, 3, 1, 0)
                value = value.reshape(weight.shape)
            else:
                value = state.pop(f"{_timm_name(layer.name)}.{PARAMETERS[weight.name]}")
            weight.assign(value)
    assert all(name.endswith("num_batches_tracked") for name in state), list(state)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_same_weights_give_the_same_scores(depth):
    theirs = _randomized(f"resnetv2_{depth}")
    ours = keras_preact.BUILDERS[f"PreActResNet{depth}"](
        weights=None, input_shape=X.shape[1:], classifier_activation=None
    )
    _transfer(theirs, ours)
    with torch.inference_mode():
        expected = theirs(torch.tensor(X.transpose(0, 3, 1, 2))).numpy()
    scores = np.asarray(ours(X))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(scores / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_same_number_of_parameters(depth):
    with torch.device("meta"):
        theirs = timm.create_model(f"resnetv2_{depth}", pretrained=False)
    ours = keras_preact.BUILDERS[f"PreActResNet{depth}"](weights=None)
    count = sum(int(np.prod(variable.shape)) for variable in ours.trainable_variables)
    assert count == sum(parameter.numel() for parameter in theirs.parameters())


def test_last_maps_equal_timms_features():
    theirs = _randomized("resnetv2_50", num_classes=0, global_pool="")
    ours = keras_preact.PreActResNet50(include_top=False, weights=None)
    _transfer(theirs, ours)
    with torch.inference_mode():
        expected = theirs(torch.tensor(X.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    maps = keras_preact.feature_extractor(ours, stages=(5,))(X)["stage5"]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(maps) / scale, expected / scale, atol=1e-4)
