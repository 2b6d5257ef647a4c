"""`python -m keras_preact.show`: the table of stages and the pictures of units."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import keras
import numpy as np
import pytest
from PIL import Image

import keras_preact
from keras_preact import show
from keras_preact.analysis import draw_units, model_cost, unit_graphs
from keras_preact.analysis.pictures.layout import unit_layout
from keras_preact.analysis.pictures.unit_graphs import INPUT
from tests.blocks.test_orders_and_shortcuts import STEPS
from tests.nets import net


def _unit(changes: dict, index: int = 1):
    """Return the kinds of units of a small net. By default the second has an identity shortcut."""
    return unit_graphs(net({"unit": "basic", **changes}))[index]


def _main_path(graph) -> list[str]:
    nodes = {node.name: node for node in graph.nodes}
    return [nodes[name].kind for name in unit_layout(graph).lanes[0].nodes if name != INPUT]


@pytest.mark.parametrize("order", STEPS)
def test_the_branch_runs_down_in_the_papers_order(order):
    assert _main_path(_unit({"order": order})) == STEPS[order].split()


def test_labels_say_what_the_layers_are():
    first, second, strided = unit_graphs(
        net({"downsample": "avg_pool", "drop_path": 0.2, "units": (2, 1)})
    )
    assert first.units == ("stage2_unit1",)
    assert (first.input_shape, first.nodes[-1].output_shape) == ((16, 16, 16), (16, 16, 32))
    labels = {node.name: node.label for node in strided.nodes}
    assert labels["conv2"] == "3×3 conv, 16, /2"
    assert labels["shortcut_pool"] == "2×2 avg pool, /2"
    assert labels["norm1"] == "batch norm"
    assert labels["act1"] == "ReLU"
    assert labels["drop_path"] == "drop path"
    inputs = {node.name: node.inputs for node in second.nodes}
    assert inputs["norm1"] == (INPUT,)
    assert set(inputs["add"]) == {INPUT, "drop_path"}


def test_a_projection_takes_the_first_activation():
    graph = _unit({}, index=0)
    inputs = {node.name: node.inputs for node in graph.nodes}
    assert inputs["shortcut"] == inputs["conv1"] == ("act1",)
    layout = unit_layout(graph)
    assert [lane.nodes for lane in layout.lanes[1:]] == [["shortcut"]]
    # In the middle between where it leaves and where it ends.
    assert layout.rows["shortcut"] == (layout.rows["act1"] + layout.rows["add"]) / 2


def test_an_identity_is_a_line_beside_the_branch():
    layout = unit_layout(_unit({}))
    assert [lane.nodes for lane in layout.lanes[1:]] == [[]]
    assert layout.edges[INPUT, "add"] is layout.lanes[1]


def test_lines_of_gates_do_not_cross_the_boxes():
    graph = _unit({"shortcut": "exclusive_gating"})
    layout = unit_layout(graph)
    edges = {(source, node.name) for node in graph.nodes for source in node.inputs}
    assert set(layout.edges) == edges
    boxes = [lane.nodes for lane in layout.lanes]
    # The gate's way into the branch is between both; the maps' way into their gate is outside.
    assert boxes[1:] == [[], ["gate", "gate_rest", "shortcut_gated"], []]
    assert layout.edges["gate", "branch_gated"] is layout.lanes[1]
    assert layout.edges[INPUT, "shortcut_gated"] is layout.lanes[3]


@pytest.mark.parametrize("options", [{"scan_units": True}, {"rematerialize": True}])
def test_units_look_the_same_in_every_form(options):
    flat, other = (unit_graphs(net({"units": (3, 4), **each})) for each in ({}, options))
    assert [graph.nodes for graph in other] == [graph.nodes for graph in flat]


def test_kinds_differ_in_more_than_sizes():
    graphs = unit_graphs(net({"units": (2, 2), "channels": (32, 64), "dropout": 0.1}))
    assert [graph.units for graph in graphs] == [
        ("stage2_unit1",),
        ("stage2_unit2", "stage3_unit2"),
        ("stage3_unit1",),
    ]
    with pytest.raises(ValueError, match="has no residual units"):
        unit_graphs(keras.Model(inputs := keras.Input((4, 4, 3)), keras.layers.Flatten()(inputs)))


def test_pictures_are_files_with_every_label(tmp_path):
    graphs = unit_graphs(net({"shortcut": "exclusive_gating"}))
    draw_units(graphs, tmp_path / "new" / "units.svg")
    draw_units(graphs, tmp_path / "units.png", dots_per_inch=50)
    # matplotlib writes the text of each label beside its outlines.
    text = (tmp_path / "new" / "units.svg").read_text(encoding="utf-8")
    ET.fromstring(text)
    labels = [node.label for graph in graphs for node in graph.nodes if len(node.label) > 1]
    assert all(f"<!-- {label} -->" in text for label in labels)
    pixels = np.asarray(Image.open(tmp_path / "units.png").convert("L"))
    # Boxes and lines, and room around them.
    assert 0.05 < (pixels < 250).mean() < 0.6
    assert (pixels[0] == 255).all() and (pixels[:, 0] == 255).all()
    again = tmp_path / "again.svg"
    draw_units(graphs, again)
    assert again.read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match="`graphs` must hold"):
        draw_units([], again)


def test_the_command_prints_the_stages_and_draws(tmp_path, capsys):
    arguments = ["PreActResNet20", "--input-size", "24", "--set", "order=original"]
    assert show.main([*arguments, "--set", "units=(2, 1, 1)", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    model = keras_preact.PreActResNet20(input_shape=(24, 24, 3), order="original", units=(2, 1, 1))
    total = model_cost(model).total
    rows = {line.split()[0]: line for line in printed.splitlines() if line}
    assert rows["stage3"].split()[1:7] == ["12", "x", "12", "x", "32", "1"]
    assert f"{total.parameters:,}" in rows["total"]
    assert f"{total.flops / 1e6:#.4g} M" in rows["total"]
    stem = "preact_resnet20-order=original-units=_2_1_1_"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{stem}.png", f"{stem}.svg"]


def test_the_word_none_is_a_choice_where_it_is_one():
    words = [show._change(f"{field}=none") for field in ("norm", "attention", "norms")]
    assert words == [("norm", "none"), ("attention", None), ("norms", "none")]
    options = [show._change(each) for each in ("units=(1, 1, 1)", "norm=none", "use_bias=True")]
    cost = model_cost(show.build_named("PreActResNet20", 8, dict(options)))
    assert not [layer for layer in cost.layers if "Norm" in layer.kind]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PreActResnet20"], "Did you mean 'PreActResNet20'?"),
        (["PreActResNet20", "--set", "ordr=original"], "Did you mean `order`?"),
        (["PreActResNet20", "--set", "order=new"], "`order` must be one of"),
        (["PreActResNet20", "--set", "order"], "takes FIELD=VALUE"),
        (["PreActResNet20", "--set", "classes=3"], "`classes` is no field"),
        (["PreActResNet20", "--input-size", "0"], "`input_size` must be"),
        (["--list", "*vgg*"], "No net's name matches"),
    ],
)
def test_mistakes_are_said(arguments, message, capsys):
    assert show.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_names_are_found_by_a_pattern(capsys):
    assert show.main(["--list", "*RESNET1*"]) == 0
    assert capsys.readouterr().out.split() == keras_preact.list_architectures("*resnet1*")
    found = keras_preact.list_architectures("*resnet*")
    assert set(found) == {name for name in keras_preact.BUILDERS if "resnet" in name.lower()}
    assert {"PreActResNet50", "ResNet50V2", "WideResNet28_10"} < set(found)


def test_without_matplotlib_the_table_stands_and_the_error_says_what_to_install(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert show.main(["PreActResNet20", "--output", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "272,282" in output.out
    assert "pip install keras_preact[show]" in output.err
