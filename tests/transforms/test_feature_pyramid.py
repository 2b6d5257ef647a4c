"""The feature pyramid, against torchvision's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import keras_preact
from keras_preact.layers import NearestResize
from keras_preact.transforms import feature_pyramid, freeze
from tests import nets

ARCHITECTURE = nets.FOUR_STAGES.replace(units=(1, 3, 1, 1), scan_units=True)
RNG = np.random.default_rng(0)
STRIDES = {"P2": 4, "P3": 8, "P4": 16, "P5": 32, "P6": 64}


def _net(**arguments) -> keras.Model:
    options = {"input_shape": None, "include_top": False, **arguments}
    return nets.net(architecture=ARCHITECTURE, randomize=False, **options)


@pytest.fixture(scope="module")
def net() -> keras.Model:
    return _net()


def _theirs(pyramid: keras.Model, stages: tuple[int, ...]) -> FeaturePyramidNetwork:
    """Return Torchvision's pyramid with the weights of ours."""
    laterals = [pyramid.get_layer(f"fpn_lateral{stage}") for stage in stages]
    outputs = [pyramid.get_layer(f"fpn_output{stage}") for stage in stages]
    theirs = FeaturePyramidNetwork(
        [layer.kernel.shape[2] for layer in laterals], 6, LastLevelMaxPool()
    )
    for ours, blocks in ((laterals, theirs.inner_blocks), (outputs, theirs.layer_blocks)):
        for layer, block in zip(ours, blocks, strict=True):
            kernel, bias = layer.get_weights()
            layer.bias.assign(bias + RNG.standard_normal(bias.shape))
            block[0].weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
            block[0].bias.data = torch.tensor(layer.get_weights()[1])
    return theirs.eval()


@pytest.mark.parametrize("stages", [(2, 3, 4, 5), (2, 4, 5), (3,)])
@pytest.mark.parametrize("size", [(64, 96), (70, 133)])
def test_same_weights_give_the_same_maps(net, stages, size):
    pyramid = feature_pyramid(net, 6, stages, extra_level=True)
    theirs = _theirs(pyramid, stages)
    x = RNG.standard_normal((2, *size, 3)).astype("float32")
    maps = keras_preact.feature_extractor(net, stages)(x)
    with torch.inference_mode():
        expected = theirs(
            {
                name: torch.tensor(np.asarray(each).transpose(0, 3, 1, 2))
                for name, each in maps.items()
            }
        )
    levels = pyramid(x)
    assert list(levels) == [f"P{stage}" for stage in (*stages, stages[-1] + 1)]
    for level, tensor in zip(levels.values(), expected.values(), strict=True):
        np.testing.assert_allclose(level, tensor.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def test_strides_and_shapes():
    pyramid = feature_pyramid(_net(input_shape=(64, 96, 3)), extra_level=True)
    assert pyramid.strides == STRIDES
    for name, level in pyramid.output.items():
        height, width = (-(-size // STRIDES[name]) for size in (64, 96))
        assert level.shape == (None, height, width, 256)
    assert feature_pyramid(keras_preact.PreActResNet20()).strides == {"P2": 1, "P3": 2, "P4": 4}


def test_channels_first_and_mixed_precision():
    model = _net(data_format="channels_first", dtype="mixed_bfloat16")
    levels = feature_pyramid(model, 6)(np.zeros((1, 3, 70, 70), "float32"))
    assert {name: tuple(each.shape) for name, each in levels.items()} == {
        "P2": (1, 6, 18, 18),
        "P3": (1, 6, 9, 9),
        "P4": (1, 6, 5, 5),
        "P5": (1, 6, 3, 3),
    }
    assert {each.dtype.name for each in levels.values()} == {"bfloat16"}


def test_convolutions_start_as_torchvisions_do(net):
    kernel = feature_pyramid(net, 64, (5,)).get_layer("fpn_output5").kernel
    limit = (3 / (3 * 3 * 64)) ** 0.5
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    theirs = FeaturePyramidNetwork([8], 64).layer_blocks[0][0].weight.detach().numpy()
    np.testing.assert_allclose(np.std(kernel), theirs.std(), rtol=0.02)


def test_saving_and_freezing(net, tmp_path):
    pyramid = feature_pyramid(net, 6, extra_level=True)
    freeze(pyramid, 2)
    pyramid.save(tmp_path / "pyramid.keras")
    copy = keras.saving.load_model(tmp_path / "pyramid.keras")
    freeze(net, 0)
    assert copy.strides == STRIDES
    assert not copy.get_layer("stage2_unit1_conv1").trainable
    assert copy.get_layer("stage3_unit2to3").trainable
    x = RNG.standard_normal((1, 64, 64, 3)).astype("float32")
    for level, expected in zip(copy(x).values(), pyramid(x).values(), strict=True):
        np.testing.assert_array_equal(level, expected)


@pytest.mark.parametrize("sizes", [(3, 5), (4, 8), (2, 7), (5, 5), (7, 4)])
def test_nearest_pixels_are_pytorchs(sizes):
    x = RNG.standard_normal((1, 2, sizes[0], sizes[0] + 1)).astype("float32")
    size = (sizes[1], sizes[1] + 2)
    ours = NearestResize("channels_first")([x, np.zeros((1, 3, *size), "float32")])
    theirs = torch.nn.functional.interpolate(torch.tensor(x), size=size, mode="nearest")
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_wrong_arguments(net):
    with pytest.raises(ValueError, match=r"has \(1, 2, 3, 4, 5\). Received: \(6,\)"):
        feature_pyramid(net, stages=(6,))
    with pytest.raises(ValueError, match="`channels` must be a positive integer. Received: 0"):
        feature_pyramid(net, channels=0)
