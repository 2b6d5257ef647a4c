"""Inverted bottlenecks and the depthwise convolution inside them."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
import torch
from timm.layers import SqueezeExcite, StdConv2d
from timm.models._efficientnet_blocks import InvertedResidual

import keras_preact
from keras_preact.layers import DepthwiseConv2D, StandardizedDepthwiseConv2D
from keras_preact.transforms import fold
from tests.nets import SMALL, net, scores
from tests.variants import check_forms, check_training_and_saving

EFFICIENTNET = {
    "unit": "inverted_bottleneck",
    "expansion": (1, 6),
    "attention": "se",
    "attention_ratio": 0.25,
    "attention_place": "before_last_conv",
    "activation": "silu",
}
STANDARDIZED = {"unit": "inverted_bottleneck", "norm": "group", "weight_standardization": True}


@pytest.mark.parametrize("changes", [EFFICIENTNET, STANDARDIZED], ids=["efficient", "standard"])
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


def test_every_form_gives_the_same_scores():
    check_forms(EFFICIENTNET)


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("kernel_size", "strides", "dilation_rate"), [(3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 2, 1)]
)
@pytest.mark.parametrize("size", [(12, 15), (7, 8), (1, 1)])
def test_depthwise_convolution_equals_pytorch(size, kernel_size, strides, dilation_rate):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 5)).astype("float32")
    options = {"strides": strides, "dilation_rate": dilation_rate}
    last = DepthwiseConv2D(kernel_size, data_format="channels_last", **options)
    first = DepthwiseConv2D(kernel_size, data_format="channels_first", **options)
    last.build((None, None, None, 5))
    first.build((None, 5, None, None))
    arrays = [rng.standard_normal(each.shape) for each in last.weights]
    last.set_weights(arrays)
    first.set_weights(arrays)
    kernel, bias = (torch.tensor(each, dtype=torch.float32) for each in arrays)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)),
        kernel.permute(2, 3, 0, 1),
        bias,
        stride=strides,
        padding=dilation_rate * (kernel_size // 2),
        dilation=dilation_rate,
        groups=5,
    ).numpy()
    np.testing.assert_allclose(scores(first, x.transpose(0, 3, 1, 2)), expected, atol=1e-5)
    expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(scores(last, x), expected, atol=1e-5)
    assert last.compute_output_shape(x.shape) == expected.shape


def test_a_standardized_kernel_is_timms():
    torch.manual_seed(0)
    theirs = StdConv2d(6, 6, 3, padding=1, groups=6, bias=True, eps=1e-8)
    ours = StandardizedDepthwiseConv2D(3, data_format="channels_last")
    ours.build((None, None, None, 6))
    kernel = theirs.weight.detach().numpy().transpose(2, 3, 0, 1)
    ours.set_weights([kernel, theirs.bias.detach().numpy()])
    x = np.random.default_rng(0).standard_normal((2, 7, 8, 6)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(scores(ours, x), expected, atol=1e-5)


def test_even_kernels_need_another_padding():
    with pytest.raises(ValueError, match="`kernel_size` must be odd"):
        DepthwiseConv2D(2)
    assert DepthwiseConv2D(2, padding="same").compute_output_shape((1, 5, 5, 3)) == (1, 5, 5, 3)


def test_a_branch_is_efficientnets():
    """Our branch after its first activation is timm's block without its last norm."""
    model = net({**EFFICIENTNET, "expansion": 6.0, "attention_ratio": 1 / 24})
    unit = "stage3_unit1"
    layers = {layer.name.removeprefix(f"{unit}_"): layer for layer in model.layers}
    activated, (_, branch) = layers["act1"].output, layers["add"].input
    x, expected = (scores(each) for each in _halves(model, activated, branch))
    block = InvertedResidual(
        32,
        64,
        stride=2,
        noskip=True,
        exp_ratio=6.0,
        act_layer=torch.nn.SiLU,
        norm_layer=partial(torch.nn.BatchNorm2d, eps=1e-5),
        # As EfficientNet counts: a quarter of the channels that come into the block.
        se_layer=partial(SqueezeExcite, rd_channels=8),
    ).eval()
    block.bn3 = torch.nn.Identity()
    pairs = {
        "conv1": block.conv_pw,
        "norm2": block.bn1,
        "conv2": block.conv_dw,
        "norm3": block.bn2,
        "se_reduce": block.se.fc1,
        "se_expand": block.se.fc2,
        "conv3": block.conv_pwl,
    }
    with torch.no_grad():
        for name, module in pairs.items():
            tensors = [each for each in module.state_dict().values() if each.ndim]
            for tensor, weight in zip(tensors, layers[name].weights, strict=True):
                array = np.array(keras.ops.convert_to_numpy(weight))
                if array.ndim == 4:
                    array = array.transpose((2, 3, 0, 1) if name == "conv2" else (3, 2, 0, 1))
                tensor.copy_(torch.tensor(array))
        received = block(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert expected.std() > 0.1
    np.testing.assert_allclose(received, expected, atol=1e-5 * np.abs(expected).max())


def _halves(model: keras.Model, *tensors) -> list[keras.Model]:
    return [keras.Model(model.input, tensor) for tensor in tensors]


def test_expansion_is_of_the_channels_that_come_in():
    model = net({"unit": "inverted_bottleneck", "expansion": (1, 6)})
    kernels = {
        layer.name: tuple(layer.kernel.shape[2:])
        for layer in model.layers
        if "_conv" in layer.name and "stage" in layer.name
    }
    assert kernels["stage2_unit1_conv1"] == (16, 1)
    assert kernels["stage2_unit1_conv2"] == (16, 32)
    assert "stage2_unit1_conv3" not in kernels
    assert [kernels[f"stage3_unit1_conv{i}"] for i in (1, 2, 3)] == [(32, 192), (192, 1), (192, 64)]
    assert kernels["stage3_unit2_conv1"] == (64, 384)
    assert SMALL.replace(unit="inverted_bottleneck").plan.normalized_channels >= {96, 192, 384}


def test_the_depthwise_convolution_carries_the_stride():
    model = net({"unit": "inverted_bottleneck"})
    assert model.get_layer("stage3_unit1_conv1").strides == (1, 1)
    assert model.get_layer("stage3_unit1_conv2").strides == (2, 2)


@pytest.mark.parametrize("scan_units", [False, True])
def test_depthwise_kernels_start_by_the_he_rule(scan_units):
    changes = {"unit": "inverted_bottleneck", "channels": (32, 256), "scan_units": scan_units}
    model = net(changes, randomize=False)
    weights = {each.path.replace("unit2to3/", "unit2_"): each for each in model.weights}
    kernel = keras.ops.convert_to_numpy(
        next(each for path, each in weights.items() if "unit2_conv2" in path)
    )
    assert kernel.std() == pytest.approx(np.sqrt(2 / 9), rel=0.03)


def test_norms_fold_into_depthwise_convolutions():
    for changes in (EFFICIENTNET, {**STANDARDIZED, "norm": "batch"}):
        model = net({**changes, "scan_units": True, "units": (1, 3)}, classifier_activation=None)
        folded, expected = fold(model), scores(model)
        np.testing.assert_allclose(scores(folded), expected, atol=1e-5 * np.abs(expected).max())
        names = {layer.name for layer in folded.layers}
        assert "stage3_unit2_norm1" in names
        assert not {"stage3_unit1_norm1", "stage3_unit1_norm2", "stage3_unit1_norm3"} & names
        assert not any(isinstance(each, StandardizedDepthwiseConv2D) for each in folded.layers)


def test_dilation_computes_the_same_pixels_more_densely():
    changes = {"unit": "inverted_bottleneck", "strides": (2, 2), "units": (2, 2)}
    coarse = net(changes, include_top=False)
    dense = net({**changes, "output_stride": 1}, include_top=False)
    dense.set_weights(coarse.get_weights())
    np.testing.assert_allclose(scores(dense)[:, ::4, ::4], scores(coarse), atol=1e-4)
    assert keras_preact.feature_extractor(dense).strides == {"stage2": 1, "stage3": 1}


@pytest.mark.parametrize("expansion", [0, (6,), (6.0, 0.0), "6", (6, 6, 6)])
def test_bad_expansions_are_named(expansion):
    with pytest.raises(ValueError, match="`expansion` must be"):
        SMALL.replace(unit="inverted_bottleneck", expansion=expansion)


def test_a_list_of_expansions_is_a_tuple_of_them():
    config = SMALL.replace(expansion=(1, 6)).get_config()
    config["expansion"] = list(config["expansion"])
    assert keras_preact.Architecture.from_config(config) == SMALL.replace(expansion=(1, 6))


def test_stages_of_the_named_net_are_mobilenets():
    ours = keras_preact.PreActMobileNetV2(input_shape=(32, 32, 3))
    theirs = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3))
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)

    def kernels(model: keras.Model) -> list[tuple]:
        layers = [layer for layer in model.layers if isinstance(layer, kinds)]
        return [(tuple(layer.kernel.shape), layer.strides) for layer in layers]

    shortcuts = [layer for layer in ours.layers if layer.name.endswith("_shortcut")]
    expected = kernels(theirs)
    assert expected.pop() == ((1, 1, 320, 1280), (1, 1))
    received = kernels(ours)
    for layer in shortcuts:
        received.remove((tuple(layer.kernel.shape), layer.strides))
    assert received == expected
    assert ours.name == "preact_mobilenetv2"
