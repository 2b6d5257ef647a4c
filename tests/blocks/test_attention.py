"""Attention in a unit: Squeeze-and-Excitation, ECA and CBAM."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import torch
from timm.layers import create_attn
from timm.models.resnet import Bottleneck, ResNet

import keras_preact
from keras_preact.analysis import architecture_cost
from keras_preact.blocks.attention import ATTENTIONS, attention_channels, eca_kernel_size
from keras_preact.layers import ChannelPooling, GlobalMean2D
from keras_preact.transforms import fold, stack, unroll
from tests.nets import SMALL, TINY, X, net, scores
from tests.numerics import NET, WIDE_NET
from tests.variants import check_forms, check_training_and_saving, some_slow

# A wide inside, in which no ReLU leaves every channel at zero.
VARIANTS = [{"attention": each, "attention_ratio": 0.5} for each in ATTENTIONS]
VARIANTS += [
    {
        "attention": "cbam",
        "attention_ratio": 0.5,
        "attention_place": "before_last_conv",
        "norm": "evonorm_s0",
        "activation": "linear",
        "unit": "basic",
    },
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


@pytest.mark.parametrize("changes", some_slow(VARIANTS[:3], 2), ids=str)
def test_every_form_gives_the_same_scores(changes):
    check_forms(changes)


def _timm_resnet(attention: str) -> ResNet:
    """Return timm's post-activation net, one bottleneck per stage, no parameter as it starts."""
    torch.manual_seed(0)
    model = ResNet(
        Bottleneck, (1, 1, 1, 1), num_classes=10, block_args={"attn_layer": attention}
    ).eval()
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            scale = name.endswith(("weight", "running_var"))
            torch.nn.init.uniform_(tensor, *((0.5, 1.5) if scale else (-0.5, 0.5)))
    return model


def _variables(module: torch.nn.Module) -> list[np.ndarray]:
    """Return the weights of a Keras layer of the same kind, in its order."""
    named = {name: each.detach().numpy() for name, each in module.state_dict().items()}
    named.pop("num_batches_tracked", None)
    weight = named["weight"]
    # Kernels: (out, in, …) to (…, in, out).
    named["weight"] = weight if weight.ndim == 1 else np.moveaxis(weight, (1, 0), (-2, -1))
    return list(named.values())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_whole_net_is_timms(attention):
    theirs = _timm_resnet(attention)
    ours = keras_preact.PreActResNet50(
        weights=None,
        units=(1, 1, 1, 1),
        order="original",
        attention=attention,
        input_shape=(64, 96, 3),
        classes=10,
        classifier_activation=None,
    )
    modules = dict(theirs.named_modules())
    pairs = {"stem_conv": "conv1", "stem_norm": "bn1", "predictions": "fc"}
    inside = {
        "se": {"se_reduce": "fc1", "se_expand": "fc2"},
        "eca": {"eca_conv": "conv"},
        "cbam": {
            "cbam_reduce": "channel.fc1",
            "cbam_expand": "channel.fc2",
            "cbam_conv": "spatial.conv.conv",
            "cbam_norm": "spatial.conv.bn",
        },
    }[attention]
    for stage in (1, 2, 3, 4):
        unit, block = f"stage{stage + 1}_unit1_", f"layer{stage}.0."
        pairs |= {f"{unit}conv{i}": f"{block}conv{i}" for i in (1, 2, 3)}
        pairs |= {f"{unit}norm{i + 1}": f"{block}bn{i}" for i in (1, 2, 3)}
        pairs[f"{unit}shortcut"] = f"{block}downsample.0"
        pairs[f"{unit}shortcut_norm"] = f"{block}downsample.1"
        pairs |= {unit + our: f"{block}se.{their}" for our, their in inside.items()}
    for layer in ours.layers:
        if layer.weights:
            arrays = _variables(modules[pairs.pop(layer.name)])
            if "_cbam_" in layer.name and len(arrays) < len(layer.weights):
                arrays.append(np.zeros(layer.bias.shape))  # timm's dense layers have none
            layer.set_weights(arrays)
    assert not pairs
    x = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(scores(ours, x), expected, atol=WIDE_NET * np.abs(expected).max())


def _parameters(**changes) -> int:
    architecture = keras_preact.PreActResNet50.architecture.replace(**changes)
    return architecture_cost(architecture, (32, 32, 3)).parameters


def test_parameters_are_the_papers():
    plain = _parameters()
    added = {each: _parameters(attention=each) - plain for each in ATTENTIONS}
    # Two kernels of C * C / 16 weights a unit (arXiv:1709.01507, equation 5), and their biases.
    widths = [(256, 3), (512, 4), (1024, 6), (2048, 3)]
    kernels = sum(units * 2 * width * width // 16 for width, units in widths)
    biases = sum(units * (width + width // 16) for width, units in widths)
    assert kernels / 1e6 == pytest.approx(2.5, abs=0.05)
    assert added["se"] == kernels + biases
    # 24.37 million with and without ECA in arXiv:1910.03151; 28.09 with SE and with CBAM in
    # arXiv:1807.06521, whose gates of pixels have 2 * 7 * 7 weights, a scale and a shift.
    assert added["eca"] == 3 * 5 + 4 * 5 + 6 * 5 + 3 * 7
    assert added["cbam"] == added["se"] + 16 * (98 + 2)
    assert (25.56e6 + added["cbam"]) / 1e6 == pytest.approx(28.09, abs=0.01)


@pytest.mark.parametrize("channels", [8, 64, 96, 256, 512, 1000, 2048])
def test_kernel_size_of_eca_is_timms(channels):
    assert eca_kernel_size(channels) == create_attn("eca", channels).conv.kernel_size[0]


@pytest.mark.parametrize(
    ("place", "takes", "channels"),
    [("after_last_conv", "conv3", 64), ("before_last_conv", "act3", 16)],
)
def test_place_in_the_branch(place, takes, channels):
    model = net({"attention": "se", "attention_place": place, "attention_ratio": 0.25})
    scale = model.get_layer("stage3_unit2_se_scale")
    assert scale.input[0] is model.get_layer(f"stage3_unit2_{takes}").output
    assert model.get_layer("stage3_unit2_se_reduce").filters == channels // 4
    after = model.get_layer("stage3_unit2_" + {"conv3": "add", "act3": "conv3"}[takes])
    received = after.input[1] if takes == "conv3" else after.input
    assert received is scale.output


def test_branches_of_zero_learn_with_attention():
    model = net({"attention": "cbam", "zero_init_residual": True}, randomize=False)
    _, branch = model.get_layer("stage2_unit2_add").input
    branch = keras.Model(model.input, branch)
    assert not np.any(scores(branch))
    optimizer, loss = keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, run_eagerly=True)
    model.train_on_batch(X, np.array([1, 2]))
    assert np.any(scores(branch))


def test_shared_layers_survive_every_transform():
    model = net({"attention": "cbam", "scan_units": True}, classifier_activation=None)
    expected = scores(model)
    flat = unroll(model)
    for other in (flat, stack(flat), fold(model)):
        np.testing.assert_allclose(scores(other), expected, atol=NET * np.abs(expected).max())
    # The norm of the gate of pixels, too, has gone into the convolution before it.
    assert not any(each.name.endswith("cbam_norm") for each in fold(model).layers)


def test_means_of_large_maps_do_not_overflow():
    # Keras's own means, of which the layers consist, are in float32.
    mean = GlobalMean2D(dtype="float16")(np.full((1, 112, 112, 1), 10, "float16"))
    pooled = ChannelPooling(dtype="float16")(np.full((1, 1, 1, 4096), 60, "float16"))
    for value, expected in ((mean, [[10]]), (pooled, [[[[60, 60]]]])):
        assert keras.backend.standardize_dtype(value.dtype) == "float16"
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(value), expected)


def test_means_are_keras_own_and_load_under_their_older_name():
    layer = net({"attention": "se"}, architecture=TINY).get_layer("stage2_unit1_se_squeeze")
    assert type(layer) is keras.layers.GlobalAveragePooling2D
    older = {"class_name": "GlobalMean2D", "registered_name": "keras_preact>GlobalMean2D"}
    config = {**keras.saving.serialize_keras_object(layer), **older, "module": "elsewhere"}
    loaded = keras.saving.deserialize_keras_object(config)
    assert isinstance(loaded, GlobalMean2D) and loaded.keepdims


def test_a_ratio_that_leaves_less_than_a_channel_leaves_one():
    assert attention_channels(SMALL.replace(attention_ratio=1 / 64), 32) == 1


@pytest.mark.parametrize(
    "changes", [{"attention": "sse"}, {"attention_ratio": 0.0}, {"attention_place": "first"}]
)
def test_bad_values_are_named(changes):
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` must be"):
        SMALL.replace(**changes)
