"""Self-attention in the place of a bottleneck's 3x3 convolution: BoTNet, arXiv:2101.11605."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn

import keras_preact
from keras_preact import published, transforms
from keras_preact.layers import SelfAttention2D, StackedUnits
from keras_preact.weights import convert, named_weights
from tests.nets import SMALL, X, net, scores
from tests.variants import check_forms, check_training_and_saving

LAST = {"spatial": "self_attention", "spatial_stages": 1}


@pytest.mark.numerical
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("size", "heads"), [((5, 7), 4), ((6, 3), 2)])
def test_same_weights_give_what_timms_layer_gives(size, heads, data_format):
    torch.manual_seed(0)
    theirs = BottleneckAttn(24, 32, feat_size=size, num_heads=heads, scale_pos_embed=True)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    x = np.random.default_rng(0).standard_normal((2, 24, *size)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).numpy()
    ours = SelfAttention2D(32, heads, data_format=data_format)
    first = data_format == "channels_first"
    x = x if first else x.transpose(0, 2, 3, 1)
    ours.build(x.shape)
    positions = theirs.pos_embed
    kernel = theirs.qkv.weight[:, :, 0, 0].T
    ours.set_weights([each.detach() for each in (kernel, *positions.parameters())])
    received = keras.ops.convert_to_numpy(ours(x))
    assert received.shape == ours.compute_output_shape(x.shape)
    received = received if first else received.transpose(0, 3, 1, 2)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(received / scale, expected / scale, atol=1e-5)


def test_the_paper_s_parameters():
    # Table 1 of the paper: 20.8 million. Its 3x3 convolutions of 512 channels, of 9 * 512 * 512
    # weights, are projections to queries, keys and values, 3 * 512 * 512.
    model = keras_preact.PreActBoTNet50()
    plain = keras_preact.PreActResNet50(weights=None)
    embeddings = (2 * 27 + 2 * 2 * 13) * 512 // 4
    assert plain.count_params() - model.count_params() == 3 * 6 * 512 * 512 - embeddings
    trained = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    assert trained / 1e6 == pytest.approx(20.8, abs=0.05)
    assert keras_preact.feature_extractor(model).strides["stage5"] == 32


@pytest.mark.parametrize("stride_in", ["spatial_conv", "first_conv"])
def test_attention_stands_in_the_last_stages_alone(stride_in):
    model = net({**LAST, "stride_in": stride_in})
    names = [layer.name for layer in model.layers]
    attending = [name for name in names if name.endswith("_attention")]
    assert attending == [f"stage3_unit{unit}_conv2_attention" for unit in (1, 2, 3)]
    assert all(f"stage2_unit{unit}_conv2" in names for unit in (1, 2))
    assert not any(re.fullmatch(r"stage3_unit\d_conv2", name) for name in names)
    size = 16 if stride_in == "spatial_conv" else 8
    assert model.get_layer(attending[0]).map_size == (size, size)
    assert ("stage3_unit1_conv2_pool" in names) == (stride_in == "spatial_conv")
    assert keras_preact.feature_extractor(model).strides == {"stage2": 1, "stage3": 2}
    everywhere = [layer.name for layer in net({"spatial": "self_attention"}).layers]
    assert sum(name.endswith("_attention") for name in everywhere) == 5


@pytest.mark.parametrize("spatial", ["conv", "self_attention"])
def test_attention_sees_every_pixel_and_a_convolution_its_neighbors(spatial):
    changes = {"units": (1, 1), "strides": (1, 1), "spatial": spatial, "spatial_stages": 1}
    model = net(changes, include_top=False)
    far = X.copy()
    far[:, -1, -1] += 1
    before, after = scores(model)[:, 0, 0], scores(model, far)[:, 0, 0]
    assert np.array_equal(before, after) == (spatial == "conv")


def test_odd_maps_shrink_as_the_shortcut_does():
    model = net(LAST, input_shape=(15, 13, 3))
    assert model.get_layer("stage3_unit1_add").output.shape == (None, 8, 7, 64)


def test_trains_saves_and_loads(tmp_path):
    check_training_and_saving({**LAST, "drop_path": 0.2}, tmp_path)


def test_every_form_gives_the_same_scores():
    check_forms(LAST)


def test_scanned_units_train_save_and_unroll(tmp_path):
    changes = {**LAST, "units": (1, 3), "scan_units": True}
    check_training_and_saving(changes, tmp_path)
    model = net(changes)
    unrolled = transforms.unroll(model)
    assert not any(isinstance(layer, StackedUnits) for layer in unrolled.layers)
    np.testing.assert_allclose(scores(unrolled), scores(model), atol=1e-5)
    np.testing.assert_allclose(scores(transforms.stack(unrolled)), scores(model), atol=1e-5)
    np.testing.assert_allclose(scores(transforms.fold(model)), scores(model), atol=1e-4)


def test_stacked_units_start_as_separate_ones():
    stacked = net({**LAST, "scan_units": True, "units": (1, 9)}, randomize=False)
    kernels = named_weights(stacked)
    deviations = {
        part: np.std([kernels[f"stage3_unit{unit}_conv2_attention"][part] for unit in range(2, 10)])
        for part in "012"
    }
    assert deviations["0"] == pytest.approx(16**-0.5, rel=0.1)
    assert deviations["1"] == pytest.approx(4**-0.5, rel=0.15)
    assert deviations["2"] == pytest.approx(4**-0.5, rel=0.15)


def test_a_file_of_its_weights_is_identified(tmp_path, monkeypatch):
    tiny = published.Net("TinyBoTNet", "Tiny.", SMALL.replace(**LAST), 10)
    monkeypatch.setitem(published.NETS, tiny.name, tiny)
    model = keras_preact.PreActResNet(tiny.architecture, classes=tiny.classes)
    model.save_weights(tmp_path / "one.weights.h5")
    target = tmp_path / "other.weights.h5"
    assert convert(tmp_path / "one.weights.h5", target) == "TinyBoTNet"


def test_the_size_of_the_images_must_be_known():
    with pytest.raises(ValueError, match="`input_shape` must be known in height and width"):
        net(LAST, input_shape=(None, 16, 3))
    assert net(LAST, input_shape=None, include_top=False).input_shape == (None, 32, 32, 3)


def test_a_resized_net_is_refused():
    with pytest.raises(ValueError, match="has layers `SelfAttention2D`.* Build it anew"):
        transforms.resize_input(net(LAST), 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial": "attention"}, "`spatial` must be one of"),
        ({**LAST, "unit": "basic"}, '`spatial` must be "conv" with `unit="basic"`'),
        ({**LAST, "spatial_stages": 3}, "`spatial_stages` must be None or at most 2"),
        ({"spatial_stages": 0}, "`spatial_stages` must be None or a positive integer"),
        ({**LAST, "attention_heads": 3}, r"`attention_heads` must be a divisor .* \[16\]"),
    ],
)
def test_wrong_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)


def test_maps_of_another_or_an_unknown_size():
    layer = SelfAttention2D(8, 2, map_size=(4, 4))
    with pytest.raises(ValueError, match=r"known and stay the same.*map_size=\(4, 4\)"):
        layer.build((None, 5, 4, 8))
    with pytest.raises(ValueError, match="known and stay the same"):
        SelfAttention2D(8, 2).build((None, None, 4, 8))
    with pytest.raises(ValueError, match="`heads` must divide the 8 filters. Received: 3"):
        SelfAttention2D(8, 3)
