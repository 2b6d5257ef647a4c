"""The tables of parts and the fields that choose from them belong together."""

from __future__ import annotations

import inspect

import pytest

from keras_preact import Architecture
from keras_preact.blocks.attention import ATTENTIONS
from keras_preact.blocks.channels import WIDENINGS
from keras_preact.blocks.convolutions import CONVOLUTIONS
from keras_preact.blocks.layer_factory import DROP_PATHS
from keras_preact.blocks.norms import NORMS
from keras_preact.blocks.operations import SPATIAL
from keras_preact.blocks.residual_scaling import RESIDUAL_SCALINGS
from keras_preact.blocks.shortcuts import FOLLOW_UPS, PROJECTIONS, SHORTCUTS
from keras_preact.blocks.stem import STEMS
from keras_preact.blocks.units import UNITS, branch_operations
from keras_preact.spec.fields import RULES
from keras_preact.spec.orders import ORDERS

TABLES = {
    "attention": {None: None, **ATTENTIONS},
    "downsample": PROJECTIONS | FOLLOW_UPS,
    "drop_path_form": DROP_PATHS,
    "norm": NORMS,
    "order": ORDERS,
    "residual_scaling": RESIDUAL_SCALINGS,
    "shortcut": SHORTCUTS,
    "spatial": SPATIAL,
    "stem": STEMS,
    "unit": UNITS,
    "weight_standardization": CONVOLUTIONS,
    "widening": WIDENINGS,
}


@pytest.mark.parametrize("field", TABLES)
def test_the_names_in_a_field_are_the_keys_of_its_table(field):
    assert set(RULES[field].choices) == set(TABLES[field])


@pytest.mark.parametrize("field", RULES)
def test_every_field_is_documented(field):
    assert f"\n    {field}: " in Architecture.__doc__


def test_documentation_is_indented_alike_by_every_python():
    # From 3.13 on, the compiler takes the indentation out, before the fields come in.
    assert Architecture.__doc__ == inspect.cleandoc(Architecture.__doc__)


@pytest.mark.parametrize("unit", [name for name, kind in UNITS.items() if kind.kernels])
def test_the_kernels_of_a_kind_of_unit_are_those_of_its_branch(unit):
    net = Architecture(units=(1,), channels=(80,), strides=(1,), unit=unit, stem_channels=64)
    operations = branch_operations(net, net.stages[2][0])
    assert tuple(each.kernel_size for each in operations) == UNITS[unit].kernels


def test_the_units_of_an_architecture_are_computed_once():
    net = Architecture(units=(1,), channels=(64,), strides=(1,))
    assert net.stages is net.stages
    assert net.replace(units=(2,)).stages != net.stages
