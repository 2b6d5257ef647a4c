"""`Architecture`: what it works out, and what it refuses."""

from __future__ import annotations

import json

import pytest

import keras_preact
from keras_preact import Architecture
from tests import nets

NET = nets.TINY.replace(units=(1, 2))


def test_stages_count_from_two_and_carry_the_channels_on():
    stages = NET.replace(drop_path=0.3).stages
    assert list(stages) == [2, 3]
    units = [unit for stage in stages.values() for unit in stage]
    assert [unit.name for unit in units] == ["stage2_unit1", "stage3_unit1", "stage3_unit2"]
    assert [(unit.in_channels, unit.channels) for unit in units] == [(8, 8), (8, 16), (16, 16)]
    assert [unit.stride for unit in units] == [1, 2, 1]
    assert [unit.projects for unit in units] == [False, True, False]


def test_drop_path_grows_linearly_to_its_value():
    rates = [u.drop_path for s in NET.replace(drop_path=0.3).stages.values() for u in s]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


def test_config_survives_json():
    config = json.loads(json.dumps(NET.get_config()))
    assert Architecture.from_config(config) == NET


@pytest.mark.parametrize(
    "made", [iter, list, lambda values: (v for v in values)], ids=["iterator", "list", "generator"]
)
def test_sequences_of_any_kind_are_kept_whole(made):
    fields = {
        "units": (1, 2),
        "channels": (16, 24),
        "strides": (1, 2),
        "dilations": (1, 3),
        "multi_grid": (2, 1),
        "expansion": (1, 6.0),
    }
    net = NET.replace(**{name: made(values) for name, values in fields.items()})
    assert {name: getattr(net, name) for name in fields} == fields
    assert NET.replace(units=range(1, 3)).units == NET.replace(units={1: 0, 2: 0}.keys()).units
    model = keras_preact.PreActResNet(NET, input_shape=made((16, 24, 3)))
    assert model.input_shape == (None, 16, 24, 3)


@pytest.mark.parametrize("values", [{1, 2}, frozenset({1, 2}), {1: 1, 2: 2}, b"\1\2"])
def test_values_without_an_order_are_refused(values):
    for field in ("units", "channels", "strides", "dilations", "multi_grid", "expansion"):
        with pytest.raises(ValueError, match=f"`{field}` must be .* sequence"):
            NET.replace(**{field: values})
    with pytest.raises(ValueError, match="`input_shape` must have three dimensions"):
        keras_preact.PreActResNet(NET, input_shape={3, 16, 24})


def test_equal_architectures_have_equal_hashes():
    assert hash(NET) == hash(NET.replace(units=[1, 2]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("units", (1, 0)),
        ("units", 3),
        ("units", ()),
        ("channels", (8, 16, 32)),
        ("channels", "8"),
        ("strides", (1, 2.0)),
        ("unit", "basics"),
        ("stride_in", "last"),
        ("stem", "mnist"),
        ("stem_channels", 0),
        ("norm", "batches"),
        ("norm_momentum", 1.0),
        ("norm_epsilon", 0.0),
        ("norm_epsilon", float("nan")),
        ("activation", "rely"),
        ("activation", None),
        ("activation", "glu"),
        ("activation", "threshold"),
        ("padding", "valid"),
        ("use_bias", 1),
        ("use_bias", "normalized"),
        ("stride_unit", "middle"),
        ("downsample", "max"),
        ("output_stride", 3),
        ("norm_groups", 0),
        ("zero_pad_pool", 1),
        ("weight_standardization", None),
        ("weight_standardization", 1),
        ("dropout", 1.0),
        ("dropout", "0.1"),
        ("drop_path", -0.1),
        ("zero_init_residual", "yes"),
    ],
)
def test_a_bad_value_is_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}`") as error:
        NET.replace(**{field: value})
    assert repr(value) in str(error.value) or str(value) in str(error.value)


def test_a_bottleneck_must_keep_a_channel():
    with pytest.raises(ValueError, match="bottleneck_ratio"):
        NET.replace(unit="bottleneck", bottleneck_ratio=0.1)


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match=r"`norm_groups` must be a divisor.*\[8, 16\].*3"):
        NET.replace(norm="group", norm_groups=3)


def test_evonorm_brings_its_own_activation():
    with pytest.raises(ValueError, match=r"`activation` must be \"linear\" with.*relu"):
        NET.replace(norm="evonorm_s0", norm_groups=8)


def test_dilation_replaces_strides_beyond_the_output_stride():
    net = Architecture(units=(1, 1, 1, 2), channels=(64,) * 4, strides=(1, 2, 2, 2))
    units = [unit for stage in net.replace(output_stride=8).stages.values() for unit in stage]
    assert [unit.stride for unit in units] == [1, 2, 1, 1, 1]
    assert [(unit.dilation, unit.dilation_after) for unit in units] == [
        (1, 1),
        (1, 1),
        (1, 2),
        (2, 4),
        (4, 4),
    ]
    assert [unit.projects for unit in units] == [False, True, True, True, False]


def test_an_unknown_field_gets_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean `drop_path`"):
        NET.replace(drop_paths=0.1)
    with pytest.raises(ValueError, match="no field"):
        Architecture.from_config({**NET.get_config(), "colour": "red"})
