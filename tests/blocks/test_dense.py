"""DenseNets (arXiv:1608.06993): dense units and the transitions between their stages."""

from __future__ import annotations

import math
import random
import re

import keras
import numpy as np
import pytest
import torch
import torchvision
from keras.src.applications.densenet import DenseNet
from safetensors.torch import save_file

import keras_preact
from keras_preact import Architecture
from keras_preact.dense import dense_channels
from keras_preact.transforms import fold, freeze, replace_head, stack, unroll
from keras_preact.weights import load_weights, named_weights, set_named_weights
from keras_preact.weights.converters.keras_applications import NAMING
from keras_preact.weights.identify import identified_model
from tests.nets import SMALL, X, net, scores
from tests.numerics import LAYER, NET, WIDE_NET
from tests.variants import check_forms, check_training_and_saving

DENSE = {"unit": "dense"}
BASIC = {"unit": "dense_basic", "compression": 1.0, "channels": (32, 80)}


@pytest.mark.parametrize("changes", [DENSE, BASIC], ids=["dense", "dense_basic"])
def test_trains_saves_and_loads(changes, tmp_path):
    check_training_and_saving(changes, tmp_path)


def test_every_form_gives_the_same_scores():
    check_forms(DENSE, scans=False)


def _trainable(model: keras.Model) -> int:
    return sum(math.prod(each.shape) for each in model.trainable_variables)


@pytest.fixture(scope="module")
def densenet_bc() -> keras.Model:
    """Return the published net for CIFAR."""
    return keras_preact.DenseNetBC100_12()


# Counts of the authors' Torch nets, 0.8M and 1.0M in their table 2.
def test_parameters_of_the_cifar_nets_are_the_authors(densenet_bc):
    assert _trainable(densenet_bc) == 769_162
    basic = Architecture(
        unit="dense_basic",
        units=(12, 12, 12),
        channels=dense_channels((12, 12, 12), 12, 16, compression=1.0),
        strides=(1, 2, 2),
        compression=1.0,
        stem="cifar",
        stem_channels=16,
    )
    assert _trainable(keras_preact.PreActResNet(basic, classes=10)) == 1_019_722


@pytest.mark.parametrize(
    "depth", [121, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (169, 201))]
)
def test_parameters_of_the_imagenet_nets_are_torchvisions(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"densenet{depth}")()
    ours = keras_preact.BUILDERS[f"PreActDenseNet{depth}"](input_shape=(32, 32, 3))
    assert _trainable(ours) == sum(each.numel() for each in theirs.parameters())


def _imagenet(units: tuple[int, ...], growth_rate: int, **changes) -> keras.Model:
    architecture = keras_preact.PreActDenseNet121.architecture.replace(
        units=units, channels=dense_channels(units, growth_rate, 64), **changes
    )
    return keras_preact.PreActResNet(
        architecture, input_shape=(64, 96, 3), classes=7, classifier_activation=None
    )


IMAGES = np.random.default_rng(0).standard_normal((2, 64, 96, 3)).astype("float32")


@pytest.mark.parametrize("ending", [".weights.h5", ".h5"])
def test_files_of_keras_applications_give_its_scores(ending, tmp_path):
    random.seed(0)
    theirs = DenseNet(
        (2, 3, 2, 1), weights=None, input_shape=IMAGES.shape[1:], include_top=False, pooling="avg"
    )
    rng = np.random.default_rng(1)
    for variable in theirs.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = tmp_path / f"net{ending}"
    theirs.save_weights(path) if "weights" in ending else theirs.save(path)
    ours = replace_head(_imagenet((2, 3, 2, 1), 32, norm_epsilon=1.001e-5), None)
    load_weights(ours, path)
    np.testing.assert_allclose(scores(ours, IMAGES), scores(theirs, IMAGES), rtol=WIDE_NET)


def test_names_with_a_slash_in_the_published_densenets():
    names = {"conv1/conv": "kernel", "conv1/bn": "gamma", "bn": "gamma", "fc1000": "kernel"}
    layers = {name: {variable: np.zeros(1)} for name, variable in names.items()}
    assert [*NAMING.renamed(layers, "net.h5")] == [
        "stem_conv",
        "stem_norm",
        "head_norm",
        "predictions",
    ]


# timm's DenseNets and torchvision's have the same names; training on several GPUs prefixes them.
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_timm_and_torchvision_give_their_scores(prefix, tmp_path):
    theirs = torchvision.models.DenseNet(8, (2, 3, 2), 64, num_classes=7).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in theirs.state_dict().values():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
    path = tmp_path / "model.safetensors"
    save_file({prefix + name: each for name, each in theirs.state_dict().items()}, path)
    ours = _imagenet((2, 3, 2), 8, strides=(1, 2, 2))
    load_weights(ours, path)
    with torch.no_grad():
        expected = theirs(torch.tensor(IMAGES.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(
        scores(ours, IMAGES),
        expected,
        rtol=WIDE_NET,
        atol=WIDE_NET * np.abs(expected).max(),
    )


def test_growth_is_the_paper_s():
    units = [
        unit
        for stage in keras_preact.PreActDenseNet121.architecture.stages.values()
        for unit in stage
    ]
    assert {unit.growth for unit in units} == {32}
    openings = [unit for unit in units if unit.projects]
    assert [(unit.name, unit.in_channels, unit.shortcut_channels) for unit in openings] == [
        ("stage3_unit1", 256, 128),
        ("stage4_unit1", 512, 256),
        ("stage5_unit1", 1024, 512),
    ]
    assert dense_channels((6, 12, 24, 16), 32, 64) == (256, 512, 1024, 1024)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("units", (6, 0)),
        ("units", {6, 12}),
        ("growth_rate", 0),
        ("growth_rate", (32, 32, 32)),
        ("growth_rate", 32.5),
        ("stem_channels", "64"),
        ("compression", 1.5),
    ],
)
def test_arguments_out_of_range_are_named(argument, value):
    arguments = {"units": (6, 12), "growth_rate": 32, "stem_channels": 64, argument: value}
    with pytest.raises(ValueError, match=f"`{argument}` must be .*Received: "):
        dense_channels(**arguments)


def test_a_transition_opens_the_stages_that_the_documentation_says():
    def opened(**changes):
        stages = SMALL.replace(**{**DENSE, "units": (2, 2), **changes}).stages
        return [stage for stage, units in stages.items() if units[0].projects]

    whole = {"compression": 1.0, "channels": (24, 32)}
    assert opened(channels=(24, 28)) == [3]
    assert opened(channels=(24, 28), strides=(2, 1)) == [2, 3]
    assert opened(**whole) == [3]
    assert opened(**whole, strides=(1, 1)) == []


def test_what_came_in_goes_out_untouched():
    model = net(DENSE)
    outputs = [model.get_layer(f"stage3_unit{unit}_concat").output for unit in (1, 3)]
    first, last = map(np.asarray, keras.Model(model.input, outputs)(X))
    np.testing.assert_array_equal(last[..., : first.shape[-1]], first)


def test_maps_of_a_stage_end_before_the_transition():
    model = net(DENSE)
    features = keras_preact.feature_extractor(model)
    assert features.strides == {"stage2": 1, "stage3": 2}
    assert [each.shape[1:] for each in features.output.values()] == [(16, 16, 32), (8, 8, 64)]
    assert features.output["stage2"] is model.get_layer("stage3_transition_act").output


def test_dilation_computes_the_same_pixels_more_densely():
    coarse, dense = (
        net({**DENSE, "output_stride": stride}, include_top=False) for stride in (2, 1)
    )
    set_named_weights(dense, named_weights(coarse))
    assert keras_preact.feature_extractor(dense).strides == {"stage2": 1, "stage3": 1}
    np.testing.assert_allclose(scores(dense)[:, ::2, ::2], scores(coarse), atol=WIDE_NET)


def test_dropout_follows_every_convolution_but_the_stems():
    names = {layer.name for layer in net({**DENSE, "dropout": 0.2}).layers}
    convolutions = {name for name in names if re.search(r"_conv\d?$", name)} - {"stem_conv"}
    assert {name for name in names if name.endswith("dropout")} == {
        f"{name}_dropout" for name in convolutions
    }
    assert "stage3_transition_conv_dropout" in names


def test_transforms():
    model = net({**DENSE, "dropout": 0.2, "drop_path": 0.1})
    folded = fold(model)
    left = {type(layer).__name__ for layer in folded.layers}
    assert not left & {"BatchNormalization", "Dropout", "DropPath"}
    np.testing.assert_allclose(scores(folded), scores(model), atol=NET)
    np.testing.assert_array_equal(scores(unroll(model)), scores(model))
    with pytest.raises(ValueError, match="`stage3_unit3` and `stage3_unit2` differ"):
        stack(model)


def test_a_transition_is_of_the_stage_that_it_opens():
    model = net(DENSE)
    freeze(model, 2)
    assert not model.get_layer("stage2_unit2_conv2").trainable_variables
    assert model.get_layer("stage3_transition_conv").trainable_variables
    depths = keras_preact.layer_depths(model)
    assert depths[model.get_layer("stage3_transition_conv").kernel.path] == 2


def test_rematerialised_units_are_the_same_net():
    flat = net(DENSE)
    lean = net({**DENSE, "rematerialize": True})
    set_named_weights(lean, named_weights(flat))
    np.testing.assert_allclose(scores(lean), scores(flat), atol=LAYER)
    assert isinstance(lean.get_layer("stage3_unit2"), keras_preact.layers.Rematerialized)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scan_units": True}, '`scan_units` must be False or "auto" with `unit="dense"`'),
        ({"channels": (32, 65)}, r"`channels` must be \(16 \+ 2 k, 16 \+ 3 k\).*\(32, 65\)"),
        ({"channels": (16, 64)}, r"`channels` must be \(16 \+ 2 k, 8 \+ 3 k\)"),
        ({"order": "original"}, "`order` must be 'full_preactivation' with .*'original'"),
        ({"shortcut": "scaling"}, "`shortcut` must be 'identity'"),
        ({"downsample": "zero_pad"}, "`downsample` must be 'conv'"),
        ({"zero_init_residual": True}, "`zero_init_residual` must be False"),
        ({"compression": 0.01}, "`compression` must be large enough"),
        ({"compression": 1.5}, r"`compression` must be a number in \(0, 1\]"),
        ({"bottleneck_ratio": 17.0}, "`bottleneck_ratio` must be such"),
        ({"norm": "group", "norm_groups": 5}, "`norm_groups` must be a divisor"),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        net({**DENSE, **changes})


def test_weights_tell_which_net_they_are_of(densenet_bc):
    name, model = identified_model(named_weights(densenet_bc))
    assert name == "DenseNetBC100_12"
    for one, two in zip(model.get_weights(), densenet_bc.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
