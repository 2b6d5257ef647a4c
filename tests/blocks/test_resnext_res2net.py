"""Cardinality (ResNeXt) and Res2Net's hierarchy, and both original nets against their peers."""

from __future__ import annotations

import os
import re
from typing import Any

import keras
import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.layers import BlurPool2d
from timm.models.res2net import Bottle2neck
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

import keras_preact
from keras_preact import Architecture, transforms
from keras_preact.analysis import architecture_cost
from keras_preact.layers import Conv2D
from keras_preact.named_weights import NamedWeights
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import net, scores
from tests.variants import check_forms, check_training_and_saving, some_slow

VARIANTS = {
    "resnext": {"cardinality": 4},
    "res2net": {"spatial": "res2", "res2_scale": 4, "bottleneck_ratio": 0.5},
    "res2next": {
        "spatial": "res2",
        "res2_scale": 2,
        "bottleneck_ratio": 0.5,
        "cardinality": 2,
        "stem": "deep",
        "downsample": "avg_pool",
        "norm": "group",
        "norm_groups": 4,
    },
}
IMAGES = np.random.default_rng(0).standard_normal((2, 65, 64, 3)).astype("float32")
SMALL = {"units": (2, 1, 1, 1), "strides": (1, 2, 2, 2), "order": "original"}
BASIC = {"channels": (32, 32, 64, 64), "unit": "basic"}
BOTTLENECK = {"channels": (128, 128, 256, 256)}
DEEP = {"stem": "deep", "downsample": "avg_pool"}
TIMM_DEEP = {"stem_type": "deep", "stem_width": 32, "avg_down": True}
# Our fields, and timm's arguments.
PEERS = {
    "basic": (BASIC, BasicBlock, {}),
    "bottleneck": (BOTTLENECK, Bottleneck, {}),
    "resnext": (
        {**BOTTLENECK, "cardinality": 32, "bottleneck_ratio": 0.5},
        Bottleneck,
        {"cardinality": 32, "base_width": 4},
    ),
    "res2net": (
        {**BOTTLENECK, "spatial": "res2", "bottleneck_ratio": 104 / 256},
        Bottle2neck,
        {"base_width": 26, "block_args": {"scale": 4}},
    ),
    "res2next": (
        {**BOTTLENECK, "spatial": "res2", "bottleneck_ratio": 0.5, "cardinality": 8},
        Bottle2neck,
        {"base_width": 4, "cardinality": 8, "block_args": {"scale": 4}},
    ),
    "resnext d": (
        {**BOTTLENECK, **DEEP, "cardinality": 32, "bottleneck_ratio": 0.5},
        Bottleneck,
        {**TIMM_DEEP, "cardinality": 32, "base_width": 4},
    ),
    "res2net d": (
        {**BOTTLENECK, **DEEP, "spatial": "res2", "bottleneck_ratio": 104 / 256},
        Bottle2neck,
        {**TIMM_DEEP, "base_width": 26, "block_args": {"scale": 4}},
    ),
    "blurred d": (
        {**BOTTLENECK, **DEEP, "blur_pool": True},
        Bottleneck,
        {**TIMM_DEEP, "aa_layer": BlurPool2d},
    ),
    "blurred basic d": (
        {**BASIC, **DEEP, "blur_pool": True},
        BasicBlock,
        {**TIMM_DEEP, "aa_layer": BlurPool2d},
    ),
    "unpooled": (
        {**BOTTLENECK, **DEEP, "stem": "deep_unpooled"},
        Bottleneck,
        {**TIMM_DEEP, "replace_stem_pool": True},
    ),
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", some_slow(VARIANTS.values(), 1), ids=VARIANTS)
def test_every_form_gives_the_same_scores(changes):
    check_forms(changes)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_folds(changes):
    model = net({**changes, "norm": "batch", "units": (1, 2)})
    folded = transforms.fold(model)
    np.testing.assert_allclose(scores(folded), scores(model), atol=1e-5)
    names = {layer.name for layer in folded.layers}
    assert not any(re.fullmatch(r".*_unit2_conv2_norm\d", name) for name in names)


@pytest.mark.parametrize("name", PEERS)
def test_equals_the_peers_original_net(name):
    fields, block, options = PEERS[name]
    torch.manual_seed(0)
    theirs = _randomized(
        ResNet(block, (2, 1, 1, 1), channels=(32, 32, 64, 64), num_classes=10, **options)
    )
    _assert_equal(_ours({**SMALL, **fields}), theirs)


@pytest.mark.parametrize(
    ("builder", "block", "options"),
    [
        ("PreActResNet18", torchvision.models.resnet.BasicBlock, {}),
        ("PreActResNet50", torchvision.models.resnet.Bottleneck, {}),
        (
            "PreActResNeXt50_32x4d",
            torchvision.models.resnet.Bottleneck,
            {"groups": 32, "width_per_group": 4},
        ),
    ],
)
def test_equals_torchvisions_original_net_with_fewer_units(builder, block, options):
    torch.manual_seed(0)
    units = [2, 1, 1, 1]
    theirs = torchvision.models.ResNet(block, units, num_classes=10, **options)
    _assert_equal(
        keras_preact.BUILDERS[builder](
            weights=None,
            order="original",
            units=units,
            input_shape=IMAGES.shape[1:],
            classes=10,
            classifier_activation=None,
        ),
        _randomized(theirs),
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("PreActResNeXt50_32x4d", "resnext50_32x4d"),
        pytest.param("PreActResNeXt101_32x8d", "resnext101_32x8d", marks=pytest.mark.slow),
        ("PreActRes2Net50_26w_4s", "res2net50_26w_4s"),
        ("PreActResNetRS50", "resnetrs50"),
    ],
)
def test_original_order_has_the_peers_number_of_parameters(ours, theirs):
    with torch.device("meta"):
        peer = timm.create_model(theirs, pretrained=False)
    architecture = keras_preact.BUILDERS[ours].architecture.replace(order="original")
    count = architecture_cost(architecture, (32, 32, 3)).parameters
    assert count == sum(parameter.numel() for parameter in peer.parameters())


def test_cardinality_divides_the_weights_of_the_3x3_convolutions_alone():
    plain, grouped = named_weights(net({})), named_weights(net({"cardinality": 4}))
    for name, arrays in plain.items():
        share = 4 if name.endswith("_conv2") else 1
        assert arrays["0"].size == share * grouped[name]["0"].size, name


def test_a_split_sees_one_pixel_more_than_the_split_before():
    changes = {"spatial": "res2", "res2_scale": 4, "bottleneck_ratio": 0.5, "norm": "group"}
    shape = (11, 11, 3)
    model = net({**changes, "norm_groups": 4, "strides": (1, 1)}, input_shape=shape)
    unit = keras.Model(
        model.get_layer("stage3_unit2_conv2_split1").input,
        model.get_layer("stage3_unit2_conv2_concat").output,
    )
    # Group statistics would let every pixel see all: leave only what the convolutions do.
    for layer in unit.layers:
        if isinstance(layer, keras.layers.GroupNormalization):
            layer.call = lambda inputs: inputs
    x = np.zeros((1, 11, 11, 32), "float32")
    changed = x.copy()
    changed[:, 5, 5] = 1.0
    seen = np.any(np.asarray(unit(x)) != np.asarray(unit(changed)), axis=(0, 1))
    widths = [int(seen[:, start : start + 8].any(axis=1).sum()) for start in (0, 8, 16, 24)]
    assert widths == [3, 5, 7, 1]


@pytest.mark.numerical
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "roundoff"),
    [
        ("float32", 2**-24),
        pytest.param(
            "bfloat16",
            2**-9,
            marks=pytest.mark.skipif(
                "ONEDNN_MAX_CPU_ISA" in os.environ,
                reason="TensorFlow asks the processor, not oneDNN, for kernels of 16 bits",
            ),
        ),
    ],
)
def test_groups_are_convolutions_side_by_side(strides, dtype, roundoff):
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.standard_normal((2, 9, 8, 12)), dtype)
    grouped = Conv2D(6, 3, strides=strides, groups=3, dtype=dtype)
    outputs = np.asarray(grouped(x), "float64")
    # In float64, of the same rounded numbers.
    x, kernel = (torch.tensor(np.asarray(each, "float64")) for each in (x, grouped.kernel))
    for group in range(3):
        inputs = x[..., 4 * group : 4 * group + 4].permute(0, 3, 1, 2)
        weights = kernel[..., 2 * group : 2 * group + 2].permute(3, 2, 0, 1)
        expected, magnitude = (
            torch.nn.functional.conv2d(*each, stride=strides, padding=1).permute(0, 2, 3, 1)
            for each in ((inputs, weights), (inputs.abs(), weights.abs()))
        )
        error = np.abs(outputs[..., 2 * group : 2 * group + 2] - expected.numpy())
        # A sum of 36 products rounds 36 times, in 16 bits too where the processor has no better.
        assert np.all(error <= 36 * roundoff * magnitude.numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "basic", "cardinality": 2}, "`cardinality` must be 1 with"),
        ({"cardinality": 3}, r"`cardinality` must be a divisor .*\[8, 16\]. Received: 3"),
        ({"unit": "basic", "spatial": "res2"}, '`spatial` must be "conv" with'),
        ({"spatial": "res2", "res2_scale": 3}, r"`res2_scale` must be a divisor .*Received: 3"),
        ({"spatial": "res2", "cardinality": 8}, r"`cardinality` must be a divisor .*\[2, 4\]"),
        ({"spatial": "attention-free"}, "`spatial` must be one of"),
        (
            {"spatial": "res2", "norm": "group", "norm_groups": 8},
            r"`norm_groups` must be a divisor",
        ),
    ],
)
def test_wrong_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        net(changes)


def _ours(fields: dict[str, Any]) -> keras.Model:
    return keras_preact.PreActResNet(
        Architecture(**fields),
        input_shape=IMAGES.shape[1:],
        classes=10,
        classifier_activation=None,
    )


def _randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Make every scale, shift and statistic random, so that none can hide."""
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            scale = name.endswith(("weight", "running_var"))
            torch.nn.init.uniform_(tensor, *((0.5, 1.5) if scale else (-0.5, 0.5)))
    return model.eval()


# From torchvision's and timm's names to ours, in the order of trial.
_STEM = {
    "conv1": "stem_conv",
    "bn1": "stem_norm",
    "conv1.0": "stem_conv1",
    "conv1.1": "stem_norm1",
    "conv1.3": "stem_conv2",
    "conv1.4": "stem_norm2",
    "conv1.6": "stem_conv3",
    "maxpool.0": "stem_conv4",
    "maxpool.1": "stem_norm4",
    "fc": "predictions",
}
_UNIT = [
    (r"convs\.(\d)", lambda number: f"conv2_conv{int(number) + 1}"),
    (r"bns\.(\d)", lambda number: f"conv2_norm{int(number) + 1}"),
    (r"conv(\d)", lambda number: f"conv{number}"),
    (r"bn(\d)", lambda number: f"norm{int(number) + 1}"),
    (r"downsample\.\d", lambda: "shortcut"),
]


def _our_name(module: str, deep: bool, is_norm: bool) -> str:
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module)
    if not match:
        return "stem_norm3" if deep and module == "bn1" else _STEM[module]
    stage, unit, part = match.groups()
    for pattern, ours in _UNIT:
        if found := re.fullmatch(pattern, part):
            name = f"stage{int(stage) + 1}_unit{int(unit) + 1}_{ours(*found.groups())}"
            return f"{name}_norm" if is_norm and part.startswith("downsample") else name
    raise AssertionError(module)


def _named(model: torch.nn.Module) -> NamedWeights:
    deep = isinstance(model.conv1, torch.nn.Sequential)
    named = {}
    for path, module in model.named_modules():
        parameters = {name: each.detach().numpy() for name, each in module.state_dict().items()}
        if isinstance(module, torch.nn.Conv2d):
            arrays = [parameters["weight"].transpose(2, 3, 1, 0)]
        elif isinstance(module, torch.nn.BatchNorm2d):
            arrays = [
                parameters[each] for each in ("weight", "bias", "running_mean", "running_var")
            ]
        elif isinstance(module, torch.nn.Linear):
            arrays = [parameters["weight"].T, parameters["bias"]]
        else:
            continue
        name = _our_name(path, deep, isinstance(module, torch.nn.BatchNorm2d))
        named[name] = {str(index): array for index, array in enumerate(arrays)}
    return named


@torch.inference_mode()
def _assert_equal(ours: keras.Model, theirs: torch.nn.Module) -> None:
    set_named_weights(ours, _named(theirs))
    expected = theirs(torch.tensor(IMAGES.transpose(0, 3, 1, 2))).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(scores(ours, IMAGES) / scale, expected / scale, atol=1e-4)
