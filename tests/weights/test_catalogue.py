"""The catalogue against what the sources say themselves."""

from __future__ import annotations

import csv
import inspect
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import timm
from keras.src.applications import densenet, resnet

import keras_preact
from keras_preact.weights import Entry, find_entry, list_weights
from keras_preact.weights.__main__ import main
from keras_preact.weights.catalogue import best_weights


def _published_figures() -> dict[tuple[str, int], dict[str, str]]:
    """Return the rows of other people's tables, by entry and input size."""
    lines = Path(__file__).with_name("figures.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {(row["entry"], int(row["input_size"])): row for row in rows}


FIGURES = _published_figures()
PUBLISHED = [entry for entry in list_weights() if entry.url]
TIMM = timm.list_models("resnetv2*", pretrained=True)
# Of timm's other models, those with a published figure whose net is one of these.
PEERS = {
    "nf_resnet50.ra2_in1k": "NFPreActResNet50",
    "densenet121.ra_in1k": "PreActDenseNet121",
    "densenet121.tv_in1k": "PreActDenseNet121",
    "densenet169.tv_in1k": "PreActDenseNet169",
    "densenet201.tv_in1k": "PreActDenseNet201",
    "vit_small_r26_s32_224.augreg_in21k_ft_in1k": "PreActViTHybrid_R26_S32",
    "vit_small_r26_s32_384.augreg_in21k_ft_in1k": "PreActViTHybrid_R26_S32",
    "vit_base_r50_s16_384.orig_in21k_ft_in1k": "PreActViTHybrid_R50_B16",
}


def _timm_builder(checkpoint: str) -> str:
    """`resnetv2_50d_gn` -> `PreActResNet50d_GN`, `resnetv2_50x1_bit` -> `BiTResNet50x1`."""
    if checkpoint in PEERS:
        return PEERS[checkpoint]
    name = checkpoint.split(".")[0].removeprefix("resnetv2_")
    if name.endswith("_bit"):
        return f"BiTResNet{name.removesuffix('_bit')}"
    return f"PreActResNet{name.replace('_gn', '_GN').replace('_evos', '_EvoS')}"


def test_every_checkpoint_of_timm_is_there():
    ours = [entry.name for entry in list_weights() if entry.source == "timm"]
    assert sorted(ours) == sorted(f"timm/{name}" for name in [*TIMM, *PEERS])


@pytest.mark.parametrize("name", [*TIMM, *PEERS])
def test_timms_own_configuration(name):
    entry, theirs = find_entry(f"timm/{name}"), timm.get_pretrained_cfg(name)
    ours = entry.preprocessing
    assert theirs.input_size == (3, ours.input_size, ours.input_size)
    assert (theirs.mean, theirs.std) == (ours.mean, ours.std)
    assert theirs.crop_pct == ours.crop_fraction
    assert theirs.crop_mode == "center"
    assert theirs.interpolation == ours.interpolation
    assert theirs.num_classes == entry.classes
    assert theirs.license == entry.licence.lower()
    assert _timm_builder(name) == entry.builder
    assert entry.url == (
        f"https://huggingface.co/{theirs.hf_hub_id}/resolve/main/model.safetensors"
    )
    # timm publishes figures of the size that it trained for, and of a larger one that it tests at.
    sizes = {theirs.input_size[1], (theirs.test_input_size or theirs.input_size)[1]}
    if theirs.num_classes == 1000:
        assert {figure.input_size for figure in entry.figures} == sizes


def test_figures_are_those_of_timms_table():
    theirs = {key: row for key, row in FIGURES.items() if key[0].startswith("timm/")}
    ours = {
        (entry.name, figure.input_size): figure
        for entry in list_weights()
        if entry.source == "timm"
        for figure in entry.figures
    }
    assert ours.keys() == theirs.keys()
    for key, figure in ours.items():
        row = theirs[key]
        assert figure.top1 == float(row["top1"])
        assert figure.top5 == float(row["top5"])
        assert figure.crop_fraction == float(row["crop_fraction"])


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_figures_of_keras_applications_are_of_299_pixels(depth):
    entry = find_entry(f"keras_applications/resnet{depth}v2")
    rows = [FIGURES[entry.name, size] for size in (299, 224)]
    assert [(each.input_size, each.top1, each.top5) for each in entry.figures] == [
        (int(row["input_size"]), float(row["top1"]), float(row["top5"])) for row in rows
    ]
    # Whoever evaluates the entry as it stands gets the higher figure.
    assert entry.input_size == entry.top1_size == 299


@pytest.mark.parametrize("depth", [121, 169, 201])
def test_figures_of_keras_applications_densenets(depth):
    entry = find_entry(f"keras_applications/densenet{depth}")
    (figure,) = entry.figures
    row = FIGURES[entry.name, 224]
    assert (figure.input_size, figure.top1, figure.top5) == (
        224,
        float(row["top1"]),
        float(row["top5"]),
    )


@pytest.mark.parametrize("depth", [121, 169, 201])
@pytest.mark.parametrize(("suffix", "path"), [("", ""), ("_notop", "_NO_TOP")])
def test_addresses_and_hashes_of_keras_applications_densenets(depth, suffix, path):
    entry = find_entry(f"keras_applications/densenet{depth}{suffix}")
    assert entry.url == getattr(densenet, f"DENSENET{depth}_WEIGHT_PATH{path}")
    assert entry.hash.removeprefix("md5:") in inspect.getsource(densenet)


@pytest.mark.parametrize("depth", [50, 101, 152])
@pytest.mark.parametrize(("suffix", "which"), [("", 0), ("_notop", 1)])
def test_keras_applications_own_addresses_and_hashes(depth, suffix, which):
    entry = find_entry(f"keras_applications/resnet{depth}v2{suffix}")
    name = f"resnet{depth}v2"
    assert entry.hash == f"md5:{resnet.WEIGHTS_HASHES[name][which]}"
    file_name = f"{name}_weights_tf_dim_ordering_tf_kernels{suffix}.h5"
    assert entry.url == resnet.BASE_WEIGHTS_PATH + file_name
    assert entry.file_name == file_name


@pytest.mark.parametrize("entry", list_weights(), ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry):
    assert urlsplit(entry.reference).scheme == "https"
    assert entry.hash is None or re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", entry.hash)
    for figure in entry.figures:
        assert urlsplit(figure.source).scheme == "https" or Path(figure.source).is_file()
    assert len({figure.input_size for figure in entry.figures}) == len(entry.figures)


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_every_published_entry_is_of_imagenet(entry):
    assert urlsplit(entry.url).scheme == "https"
    assert entry.classes in (1000, 21843, None)
    assert entry.training_data.startswith("ImageNet-")


def test_names_and_files_are_distinct():
    entries = list_weights()
    assert len({entry.name.lower() for entry in entries}) == len(entries)
    assert len({entry.url or entry.file_name for entry in entries}) == len(entries)


@pytest.mark.parametrize(
    "architecture", ["PreActResNet50", "preactresnet50", keras_preact.PreActResNet50]
)
def test_list_weights_of_one_net(architecture):
    assert [entry.name for entry in list_weights(architecture)] == [
        "timm/resnetv2_50.a1h_in1k",
        "keras_hub/resnet_v2_50_imagenet",
    ]


def test_list_weights_takes_a_pattern():
    assert {entry.builder for entry in list_weights("bitresnet152*")} == {
        "BiTResNet152x2",
        "BiTResNet152x4",
    }
    assert list_weights("PreActResNet56") == []
    assert all(isinstance(entry, Entry) for entry in list_weights())


def test_list_weights_wants_a_name():
    with pytest.raises(ValueError, match="Received: 50 \\(of type int\\)"):
        list_weights(50)


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(ValueError, match="Did you mean 'timm/resnetv2_50.a1h_in1k'"):
        find_entry("timm/resnetv2_50.a1_in1k")


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        ("PreActResNet34d", "timm/resnetv2_34d.ra4_e3600_r384_in1k"),
        ("PreActResNet50", "timm/resnetv2_50.a1h_in1k"),
        ("ResNet50V2", "keras_applications/resnet50v2"),
        ("BiTResNet50x1", "timm/resnetv2_50x1_bit.goog_distilled_in1k"),
        ("BiTResNet152x2", "timm/resnetv2_152x2_bit.goog_in21k_ft_in1k"),
        ("PreActViTHybrid_R26_S32", "timm/vit_small_r26_s32_384.augreg_in21k_ft_in1k"),
        ("PreActDenseNet121", None),
        ("PreActResNet20", None),
    ],
)
def test_the_best_on_imagenet(builder, name):
    entry = best_weights(builder, "imagenet")
    assert (entry and entry.name) == name


@pytest.mark.parametrize("builder", ["PreActResNet20", "PreActResNet164"])
def test_the_best_on_cifar10(builder):
    entry = best_weights(builder, "cifar10")
    assert entry.name == f"keras_preact/{builder.lower()}_cifar10"


def test_the_best_of_a_net_that_has_none():
    assert best_weights("PreActResNet50", "cifar10") is None


def test_imagenet_is_the_default_where_there_is_such_an_entry():
    defaults = {
        name: inspect.signature(builder).parameters["weights"].default
        for name, builder in keras_preact.BUILDERS.items()
    }
    # The weights of these see pixels that `preprocess_input` does not make unasked.
    by_name = {"NFPreActResNet50", *(f"PreActDenseNet{depth}" for depth in (121, 169, 201))}
    trained = {entry.builder for entry in list_weights() if entry.classes == 1000} - by_name
    assert defaults == {
        name: "imagenet" if name in trained else None for name in keras_preact.BUILDERS
    }


def test_the_command_prints_the_catalogue(capsys):
    assert main(["list", "ResNet50V2"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == "weights builder classes input top-1 trained on licence".split()
    assert [row.split()[0] for row in rows] == [
        "keras_applications/resnet50v2",
        "keras_applications/resnet50v2_notop",
    ]
    assert "75.96 at 299, 69.73 at 224" in rows[0]
    assert main(["list", "VGG*"]) == 1
    assert "'VGG*'" in capsys.readouterr().err
