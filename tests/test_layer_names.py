"""Names of layers are made and parsed by one grammar."""

from __future__ import annotations

import pytest

from keras_preact.layer_names import (
    LayerName,
    belongs_to_net,
    parse,
    stack_name,
    stage_of,
    unit_name,
)


@pytest.mark.parametrize(
    ("name", "parts", "unit"),
    [
        ("stage2_unit1", LayerName(2, 1), "stage2_unit1"),
        ("stage3_unit12_conv2", LayerName(3, 12, role="conv2"), "stage3_unit12"),
        ("stage2_unit2to9", LayerName(2, 2, last=9), "stage2_unit2to9"),
        ("stage2_unit2to9_add", LayerName(2, 2, last=9, role="add"), "stage2_unit2to9"),
        ("net_stage4_unit3_se", LayerName(4, 3, role="se", prefix="net_"), "net_stage4_unit3"),
    ],
)
def test_a_name_is_parsed_into_its_parts(name, parts, unit):
    assert parse(name) == parts
    assert parts.unit_name == unit


@pytest.mark.parametrize(
    "name",
    ["stem_conv", "stage2_transition_conv", "encoder_block1_norm1", "head_norm", "unit_add"],
)
def test_other_layers_are_in_no_unit(name):
    assert parse(name) is None


def test_a_name_that_is_made_is_parsed():
    names = [unit_name(2, number) for number in range(2, 10)]
    assert parse(names[0]) == LayerName(2, 2)
    assert parse(stack_name(names)) == LayerName(2, 2, last=9)
    assert parse(stack_name(names)).units == 8


@pytest.mark.parametrize(("role", "number"), [("conv3", 3), ("conv2_split1", None), ("add", None)])
def test_convolutions_of_a_branch_have_numbers(role, number):
    assert parse(f"stage2_unit1_{role}").convolution == number


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("stem_conv", 1),
        ("stage3_transition_norm", 3),
        ("stage4_unit2to5", 4),
        ("stage4_unit1_conv1", 4),
        ("net_stage4_unit1_conv1", None),
        ("head_norm", None),
    ],
)
def test_the_stage_of_a_layer(name, stage):
    assert stage_of(name) == stage


@pytest.mark.parametrize(
    "name", ["stem_conv4", "stem_conv1_dropout", "stem_pool_blur", "encoder_block12_drop_path2"]
)
def test_layers_of_stem_and_encoder_belong_to_the_net(name):
    assert belongs_to_net(name)


@pytest.mark.parametrize("name", ["stem_filter", "encoder_projection", "encoder_block1_adapter"])
def test_layers_that_begin_like_those_of_a_net_do_not_belong_to_it(name):
    assert not belongs_to_net(name)
