"""Imports of `keras_preact` point one way."""

from __future__ import annotations

import pytest

from tests import structure

# From the top down. A room imports from lower lines only.
LAYERS = (
    {"__init__", "show", "tuning"},
    {"analysis", "serving", "hub"},
    {"applications", "preprocessing"},
    {"weights"},
    {"build", "published", "transforms"},
    {"architecture"},
    {"blocks", "named_weights", "input_channels", "features"},
    {"layers", "parameter_groups", "loss_scaling", "dense"},
    {"spec", "ops", "composition"},
    {
        "images",
        "layer_names",
        "messages",
        "files",
        "version",
        "quiet_start",
        "output_kinds",
    },
    {"tensor"},
)
# Within `blocks`, in the order of building.
BLOCKS = (
    {"stages"},
    {"units"},
    {"dense_unit"},
    {"residual_unit"},
    {"shortcuts"},
    {"antialiasing", "encoder"},
    {"stem", "attention", "operations", "residual_scaling", "nesting"},
    {"layer_factory"},
    {"convolutions"},
    {"norms", "channels", "gains", "head"},
)
MODULES = structure.modules()


def _upward(graph: dict[str, set[str]], layers: tuple[set[str], ...]) -> list[str]:
    """Return the imports that do not point to a lower line."""
    level = {name: -place for place, names in enumerate(layers) for name in names}
    return [
        f"{importer} imports {imported}"
        for importer, imports in graph.items()
        for imported in imports
        if level[importer] <= level[imported]
    ]


def test_every_room_imports_from_lower_layers_only():
    assert _upward(structure.rooms(MODULES), LAYERS) == []


def test_every_part_imports_from_lower_parts_only():
    prefix = "keras_preact.blocks."
    graph = {
        name.removeprefix(prefix): {
            target.removeprefix(prefix) for target in module.imports if target.startswith(prefix)
        }
        for name, module in MODULES.items()
        if name.startswith(prefix)
    }
    assert _upward(graph, BLOCKS) == []


def test_modules_do_not_import_in_circles():
    assert structure.circles({name: module.imports for name, module in MODULES.items()}) == []


def test_rooms_stand_on_nine_floors_at_most():
    assert max(structure.floors(structure.rooms(MODULES)).values()) <= 9


@pytest.mark.parametrize("kind", ["in_functions", "type_checking"])
def test_modules_import_each_other_openly(kind):
    found = {name: getattr(module, kind) for name, module in MODULES.items()}
    assert {name: imports for name, imports in found.items() if imports} == {}


def test_a_kind_of_unit_has_two_places():
    assert sorted({place.partition(":")[0] for place in structure.unit_places()}) == [
        "keras_preact/blocks/units.py",
        "keras_preact/spec/fields.py",
    ]
    assert len(structure.unit_places()) == 2


def test_nine_calls_at_most_lead_to_the_first_convolution_of_a_unit():
    assert 0 < len(structure.frames()) <= 9
