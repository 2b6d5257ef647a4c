"""PyramidNets (arXiv:1610.02915): linearly widening channels and zero-padded shortcuts."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import keras_preact
from keras_preact import Architecture, published
from keras_preact.transforms import fold
from keras_preact.weights import named_weights, set_named_weights
from keras_preact.weights.identify import check_builder
from tests.nets import SMALL, X, net, scores
from tests.variants import check_forms, check_training_and_saving

PYRAMID = {
    "unit": "basic",
    "order": "pyramid",
    "downsample": "zero_pad",
    "widening": "linear",
    "units": (2, 2),
    "channels": (21, 26),
}


def _widths(architecture: Architecture) -> list[int]:
    return [unit.channels for unit in itertools.chain(*architecture.stages.values())]


def test_trains_saves_and_loads(tmp_path):
    check_training_and_saving(PYRAMID, tmp_path)


def test_every_form_gives_the_same_scores():
    check_forms(PYRAMID, scans=False)


# Counted by pytorchcv, whose trained PyramidNets these are; 1.7M, 3.8M, 28.3M and 27.0M in the
# authors' table.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("PyramidNet110_a84", 3_904_446),
        pytest.param("PyramidNet110_a48", 1_772_706, marks=pytest.mark.slow),
        pytest.param("PyramidNet110_a270", 28_485_477, marks=pytest.mark.slow),
        pytest.param("PyramidNet164_a270", 27_216_021, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_those_of_the_published_nets(name, count):
    model = keras_preact.BUILDERS[name]()
    assert sum(math.prod(each.shape) for each in model.trainable_variables) == count


@pytest.mark.parametrize(
    ("depths", "stem", "alpha", "expansion"),
    [((18, 18, 18), 16, 84, 1), ((18, 18, 18), 16, 270, 4), ((3, 4, 23, 3), 64, 360, 4)],
)
def test_channels_are_those_of_the_authors_loop(depths, stem, alpha, expansion):
    width, expected = float(stem), []
    for _ in range(sum(depths)):
        width += alpha / sum(depths)
        expected.append(math.floor(width + 0.5) * expansion)
    ends = [expected[last - 1] for last in itertools.accumulate(depths)]
    architecture = Architecture(
        unit={1: "basic", 4: "bottleneck"}[expansion],
        units=depths,
        channels=ends,
        strides=(1,) * len(depths),
        stem_channels=stem,
        widening="linear",
    )
    assert _widths(architecture) == expected


def test_stages_off_one_line_have_a_line_each():
    architecture = Architecture(
        unit="basic",
        units=(2, 4),
        channels=(16, 64),
        strides=(1, 2),
        stem_channels=8,
        widening="linear",
    )
    assert _widths(architecture) == [12, 16, 28, 40, 52, 64]
    bottlenecks = architecture.replace(unit="bottleneck", channels=(64, 128))
    assert _widths(bottlenecks) == [48, 64, 80, 96, 112, 128]


@pytest.mark.numerical
@pytest.mark.parametrize(
    "changes", [{}, {"unit": "bottleneck", "channels": (84, 104)}], ids=["basic", "bottleneck"]
)
def test_scores_are_the_papers_formula(changes):
    model = net({**PYRAMID, **changes})
    expected = _reference(X.transpose(0, 3, 1, 2), named_weights(model), model.layers)
    np.testing.assert_allclose(scores(model), expected, atol=1e-5)


def _reference(x: np.ndarray, weights: dict, layers: list) -> np.ndarray:
    """Figure 6d of the paper, with the shortcut of its section 3.3, in PyTorch's functions."""

    def norm(x, name):
        gamma, beta, mean, variance = map(torch.tensor, weights[name].values())
        return F.batch_norm(x, mean, variance, gamma, beta)

    def conv(x, name, stride=1):
        kernel = torch.tensor(weights[name]["0"]).permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    x = norm(conv(torch.tensor(x), "stem_conv"), "stem_norm")
    for stage, unit in itertools.product((2, 3), (1, 2)):
        name = f"stage{stage}_unit{unit}"
        stride = 2 if (stage, unit) == (3, 1) else 1
        count = sum(f"{name}_conv{index}" in weights for index in (1, 2, 3))
        spatial = {2: 1, 3: 2}[count]
        branch = norm(x, f"{name}_norm1")
        for index in range(1, count + 1):
            if index > 1:
                branch = F.relu(norm(branch, f"{name}_norm{index}"))
            branch = conv(branch, f"{name}_conv{index}", stride if index == spatial else 1)
        branch = norm(branch, f"{name}_norm{count + 1}")
        shortcut = F.avg_pool2d(x, 2) if stride == 2 else x
        zeros = torch.zeros_like(branch[:, : branch.shape[1] - x.shape[1]])
        x = torch.cat([shortcut, zeros], 1) + branch
    x = F.relu(norm(x, "head_norm")).mean((2, 3))
    kernel, bias = weights["predictions"].values()
    return (x @ torch.tensor(kernel) + torch.tensor(bias)).softmax(-1).numpy()


def test_new_channels_of_the_shortcut_are_zeros():
    model = net(PYRAMID)
    shortcut = model.get_layer("stage3_unit1_add").input[0]
    before = model.get_layer("stage2_unit2_add").output
    shortcut, before = map(np.asarray, keras.Model(model.input, [shortcut, before])(X))
    mean = before.reshape(2, 8, 2, 8, 2, 21).mean((2, 4))
    np.testing.assert_allclose(shortcut[..., :21], mean, atol=1e-6)
    assert shortcut.shape[-1] == 24 and not shortcut[..., 21:].any()
    assert not any("shortcut" in name for name in named_weights(model))


def test_dilation_computes_the_same_pixels_more_densely():
    coarse, dense = (
        net({**PYRAMID, "output_stride": stride}, include_top=False) for stride in (2, 1)
    )
    set_named_weights(dense, named_weights(coarse))
    assert keras_preact.feature_extractor(dense).strides == {"stage2": 1, "stage3": 1}
    np.testing.assert_allclose(scores(dense)[:, ::2, ::2], scores(coarse), atol=1e-4)


def test_folding():
    model = net(PYRAMID)
    folded = fold(model)
    assert not any("BatchNormalization" in type(layer).__name__ for layer in folded.layers)
    np.testing.assert_allclose(scores(folded), scores(model), atol=1e-5)


def test_weights_tell_which_net_they_are_of(monkeypatch):
    named = named_weights(net(PYRAMID))
    tiny = published.Net("Tiny", "Tiny.", SMALL.replace(**PYRAMID), 10)
    monkeypatch.setitem(published.NETS, tiny.name, tiny)
    check_builder(named, "Tiny")
    message = r"has basic units \(18, .*\) of \(44, 72, 100\) .* basic units \(2, 2\) of \(21, 26\)"
    with pytest.raises(ValueError, match=message):
        check_builder(named, "PyramidNet110_a84")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scan_units": True}, r'`scan_units` must be False or "auto".*widening="linear".*True'),
        ({"channels": (14, 20)}, "`downsample` must be one of .* become fewer: 16 of the stem"),
        ({"widening": "quadratic"}, "`widening` must be one of"),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        net({**PYRAMID, **changes})


def test_padded_channels_may_not_be_fewer():
    with pytest.raises(ValueError, match="`channels` must not be negative. Received: -1"):
        keras_preact.layers.PadChannels(-1)
