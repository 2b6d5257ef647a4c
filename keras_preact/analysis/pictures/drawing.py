"""Pictures of units, drawn with matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from keras_preact.analysis.costs.graph import Shape
from keras_preact.analysis.pictures.figures import new_figure, save_figure
from keras_preact.analysis.pictures.layout import Edge, Lane, Layout, unit_layout
from keras_preact.analysis.pictures.unit_graphs import INPUT, Node, UnitGraph

# All lengths are in inches.
_PITCH = 0.56  # from a row to the next
_BOX = 0.34  # height of a box
_CIRCLE = 0.12  # radius of an addition
_PADDING = 0.16  # of a label inside its box, on either side
_GAP = 0.3  # between a lane and the next
_CORNER = 0.08  # radius of a line's corners
_END = 0.62  # from the first and the last row to the shapes of input and output
_TITLE = 0.62  # height of the titles
_MARGIN = 0.2
_BETWEEN = 0.7  # between two units
_FONT_SIZE = 9.0

_COLORS = {  # fill and edge
    "conv": ("#dbe7f3", "#4f7cac"),
    "norm": ("#fbeccd", "#c4963f"),
    "act": ("#f7d9d5", "#bd6459"),
    "pool": ("#dfeeda", "#74a05f"),
    "other": ("#ececec", "#858585"),
}
_SIGNS = ("add", "multiply")
_LINE = "#3c3c3c"


def draw_units(
    graphs: Sequence[UnitGraph], path: str | os.PathLike, dots_per_inch: int = 150
) -> None:
    """Draw units side by side: operations as boxes, the shortcut as a line beside them.

    Args:
        graphs: The units, from `unit_graphs`.
        path: The file; its ending, such as `.svg` or `.png`, says what kind it is.
        dots_per_inch: Resolution of a picture made of dots.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are no units, or the file's kind is not known.
    """
    if not graphs:
        raise ValueError("`graphs` must hold at least one unit. Received: none")
    figure = new_figure()
    panels = [_Panel(graph) for graph in graphs]
    width = sum(panel.width for panel in panels) + _BETWEEN * (len(panels) - 1) + 2 * _MARGIN
    height = max(panel.height for panel in panels) + 2 * _MARGIN
    figure.set_size_inches(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    left = _MARGIN
    for panel in panels:
        panel.draw(axes, left, _MARGIN)
        left += panel.width + _BETWEEN
    save_figure(figure, path, dots_per_inch)


def _text_width(text: str, size: float = _FONT_SIZE) -> float:
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text else 0.0


def _shape_label(shape: Shape) -> str:
    return " × ".join(str(size) for size in shape)


class _Panel:
    """Picture of one unit, with the sizes of all its parts."""

    def __init__(self, graph: UnitGraph) -> None:
        self.graph = graph
        self.layout: Layout = unit_layout(graph)
        self.nodes: dict[str, Node] = {node.name: node for node in graph.nodes}
        self.widths = {node.name: self._node_width(node) for node in graph.nodes}
        self.last = graph.nodes[-1].name
        lane_widths = [self._lane_width(lane) for lane in self.layout.lanes]
        left = 0.0
        self.centers: dict[int, float] = {}
        for lane, width in zip(self.layout.lanes, lane_widths, strict=True):
            self.centers[id(lane)] = left + width / 2
            left += width + _GAP
        self.title, self.subtitle = _titles(graph.units)
        main = self.centers[id(self.layout.lanes[0])]
        shapes = (graph.input_shape, graph.nodes[-1].output_shape)
        shape_ends = (main + _text_width(_shape_label(shape)) / 2 for shape in shapes)
        titles = (_text_width(self.title, _FONT_SIZE + 2) * 1.15, _text_width(self.subtitle))
        self.width = max(left - _GAP, *shape_ends, *titles)
        self.height = _TITLE + 2 * _END + _PITCH * (max(self.layout.rows.values()) - 1)

    def _node_width(self, node: Node) -> float:
        return 2 * _CIRCLE if node.kind in _SIGNS else _text_width(node.label) + 2 * _PADDING

    def _lane_width(self, lane: Lane) -> float:
        if lane is self.layout.lanes[0]:
            shapes = (self.graph.input_shape, self.graph.nodes[-1].output_shape)
            ends = [_text_width(_shape_label(shape)) for shape in shapes]
        else:
            ends = []
        return max([*(self.widths.get(name, 0) for name in lane.nodes), *ends], default=0.0)

    def draw(self, axes: Any, left: float, top: float) -> None:
        """Draw the unit with its upper left corner there."""
        self.left, self.top = left, top + _TITLE + _END - _PITCH
        axes.text(left, top, self.title, size=_FONT_SIZE + 2, weight="bold", va="top")
        axes.text(left, top + 0.24, self.subtitle, size=_FONT_SIZE, color="#666666", va="top")
        lane_of = {name: lane for lane in self.layout.lanes for name in lane.nodes}
        self.places = {
            name: (left + self.centers[id(lane)], self.top + _PITCH * self.layout.rows[name])
            for name, lane in lane_of.items()
        }
        x, _ = self.places[INPUT]
        start = self.top + _PITCH - _END + 0.17
        self.places[INPUT] = (x, start - 0.17)
        axes.text(x, start, _shape_label(self.graph.input_shape), **_centered("bottom"))
        for edge, lane in self.layout.edges.items():
            self._draw_edge(axes, edge, self.left + self.centers[id(lane)])
        x, y = self.places[self.last]
        end = y + _END
        _draw_line(axes, [(x, self._below(self.last)), (x, end - 0.17)])
        output = _shape_label(self.graph.nodes[-1].output_shape)
        axes.text(x, end - 0.12, output, **_centered("top"))
        for node in self.graph.nodes:
            self._draw_node(axes, node)

    def _half_height(self, name: str) -> float:
        if name == INPUT:
            return -0.19
        return _CIRCLE if self.nodes[name].kind in _SIGNS else _BOX / 2

    def _above(self, name: str) -> float:
        return self.places[name][1] - self._half_height(name)

    def _below(self, name: str) -> float:
        if name == INPUT:
            return self.places[name][1] + 0.2
        return self.places[name][1] + self._half_height(name)

    def _draw_edge(self, axes: Any, edge: Edge, lane_x: float) -> None:
        source, target = edge
        (x0, _), (x1, y1) = self.places[source], self.places[target]
        points = [(x0, self._below(source))]
        if abs(lane_x - x0) > 1e-6:
            fork = self._below(source) + 0.09
            points = [(x0, fork), (lane_x, fork)]
        if abs(lane_x - x1) < 1e-6:
            points.append((x1, self._above(target)))
        elif self.nodes[target].kind in _SIGNS:
            side = _CIRCLE if lane_x > x1 else -_CIRCLE
            points += [(lane_x, y1), (x1 + side, y1)]
        else:
            join = self._above(target) - 0.12
            points += [(lane_x, join), (x1, join), (x1, self._above(target))]
        _draw_line(axes, points)

    def _draw_node(self, axes: Any, node: Node) -> None:
        from matplotlib.patches import Circle, FancyBboxPatch

        x, y = self.places[node.name]
        if node.kind in _SIGNS:
            axes.add_patch(Circle((x, y), _CIRCLE, facecolor="white", edgecolor=_LINE, zorder=3))
            arm = _CIRCLE * (0.55 if node.kind == "add" else 0.4)
            arms = [((-arm, 0), (arm, 0)), ((0, -arm), (0, arm))]
            if node.kind == "multiply":
                arms = [((-arm, -arm), (arm, arm)), ((-arm, arm), (arm, -arm))]
            for (x0, y0), (x1, y1) in arms:
                axes.plot([x + x0, x + x1], [y + y0, y + y1], color=_LINE, lw=1.0, zorder=4)
            return
        fill, border = _COLORS[node.kind]
        width = self.widths[node.name]
        if node.name in self.layout.lanes[0].nodes:
            width = max(self.widths[each] for each in self.layout.lanes[0].nodes if each != INPUT)
        box = FancyBboxPatch(
            (x - width / 2, y - _BOX / 2),
            width,
            _BOX,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill,
            edgecolor=border,
            linewidth=0.9,
            zorder=3,
        )
        axes.add_patch(box)
        axes.text(x, y, node.label, **_centered("center_baseline"), zorder=4)


def _centered(vertical: str) -> dict[str, Any]:
    return {"ha": "center", "va": vertical, "size": _FONT_SIZE, "color": "#1f1f1f"}


def _titles(units: tuple[str, ...]) -> tuple[str, str]:
    """Return the title: `stage3_unit1` and the number of units like it."""
    others = units[1:]
    if len(others) <= 2:
        return units[0], "".join(f" and {each}" for each in others).lstrip()
    return units[0], f"and {len(others)} more, up to {others[-1]}"


def _draw_line(axes: Any, points: list[tuple[float, float]]) -> None:
    """Draw a line with round corners that ends in an arrow."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Outline

    vertices, codes = [points[0]], [Outline.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards(corner, before), corner, _towards(corner, after)]
        codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
    vertices.append(points[-1])
    codes.append(Outline.LINETO)
    arrow = FancyArrowPatch(
        path=Outline(vertices, codes),
        arrowstyle="-|>,head_length=3.2,head_width=1.7",
        color=_LINE,
        linewidth=0.9,
        joinstyle="miter",
        capstyle="butt",
        shrinkA=0,
        shrinkB=0,
        zorder=2,
    )
    axes.add_patch(arrow)


def _towards(corner: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Return the point where the rounding of a corner begins."""
    (x0, y0), (x1, y1) = corner, end
    length = max(abs(x1 - x0), abs(y1 - y0))
    share = min(_CORNER, length / 2) / length if length else 0.0
    return x0 + share * (x1 - x0), y0 + share * (y1 - y0)
