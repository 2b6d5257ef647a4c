"""Places of the operations of a unit in its picture, and the lines between them.

The longest way through the unit, its residual branch, runs straight down. What lies beside it
stands in lanes to its right: a chain of operations, such as a projecting shortcut, or only a line,
such as the identity. Of lanes whose ends are nested, the longer is further out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from keras_preact.analysis.pictures.unit_graphs import INPUT, Node, UnitGraph

Edge = tuple[str, str]


@dataclass
class Lane:
    """Column of the picture.

    Attributes:
        nodes: Operations that stand in it; none where it holds only lines.
        spans: Rows it is taken at, as pairs of the first and the last.
    """

    nodes: list[str] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)

    def free(self, span: tuple[float, float]) -> bool:
        """Return whether nothing stands in these rows."""
        return all(span[1] <= first or last <= span[0] for first, last in self.spans)


@dataclass(frozen=True)
class Layout:
    """Picture of a unit, without sizes.

    Attributes:
        rows: Row of each operation, from the input's, 0, down.
        lanes: Columns, from left to right; the first is the residual branch.
        edges: Every line, from an operation to another, with the lane that it runs down in.
    """

    rows: dict[str, float]
    lanes: tuple[Lane, ...]
    edges: dict[Edge, Lane]


def unit_layout(graph: UnitGraph) -> Layout:
    """Lay a unit out.

    Args:
        graph: The unit.

    Returns:
        Rows, lanes, and the lane of every line.
    """
    nodes = {node.name: node for node in graph.nodes}
    rows = _rows(graph.nodes)
    main = _main_path(graph, rows)
    lanes = [Lane(main, [(0, math.inf)])]
    edges: dict[Edge, Lane] = {}
    _join(edges, main, lanes[0])
    chains = _chains(nodes, main)
    drawn = {*edges, *(edge for chain in chains for edge in _pairs(chain))}
    lines = [[source, node.name] for node in graph.nodes for source in node.inputs]
    chains += [line for line in lines if tuple(line) not in drawn]
    # The longer come first, and so further out.
    for chain in sorted(chains, key=lambda chain: rows[chain[0]] - rows[chain[-1]]):
        lane = _free_lane(lanes, chain, rows)
        lane.nodes += chain[1:-1]
        _join(edges, chain, lane)
    return Layout(rows, tuple(lanes), edges)


def _pairs(chain: list[str]) -> Iterable[Edge]:
    return zip(chain[:-1], chain[1:], strict=True)


def _join(edges: dict[Edge, Lane], chain: list[str], lane: Lane) -> None:
    edges |= {edge: lane for edge in _pairs(chain)}


def _rows(nodes: tuple[Node, ...]) -> dict[str, float]:
    """Return the rows of the operations, in the middle of those that they could stand in."""
    first = {INPUT: 0}
    for node in nodes:
        first[node.name] = 1 + max(first[source] for source in node.inputs)
    last = dict.fromkeys(first, max(first.values()))
    for node in reversed(nodes):
        for source in node.inputs:
            last[source] = min(last[source], last[node.name] - 1)
    return {name: (first[name] + last[name]) / 2 for name in first}


def _main_path(graph: UnitGraph, rows: dict[str, float]) -> list[str]:
    """Return the longest way through the unit; where maps meet factors, the way of the maps."""
    nodes = {node.name: node for node in graph.nodes}
    sizes = {node.name: math.prod(node.output_shape) for node in graph.nodes}
    sizes[INPUT] = math.prod(graph.input_shape)
    path = [graph.nodes[-1].name]
    while path[0] != INPUT:
        inputs = nodes[path[0]].inputs
        largest = max(sizes[each] for each in inputs)
        whole = [each for each in inputs if sizes[each] == largest]
        path.insert(0, max(whole, key=rows.get))
    return path


def _chains(nodes: dict[str, Node], main: list[str]) -> list[list[str]]:
    """Return the other operations as chains, each with its places of leaving and ending."""
    placed = set(main)
    chains = []
    while len(placed) <= len(nodes):
        best: dict[str, list[str]] = {}
        for node in nodes.values():
            if node.name not in placed:
                before = [best[each] for each in node.inputs if each not in placed]
                longest = max(before, key=len, default=[node.inputs[0]])
                best[node.name] = [*longest, node.name]
        chain = max(best.values(), key=len)
        ends = [each.name for each in nodes.values() if chain[-1] in each.inputs]
        placed |= set(chain)
        chains.append([*chain, *ends[:1]])
    return chains


def _free_lane(lanes: list[Lane], chain: list[str], rows: dict[str, float]) -> Lane:
    """Return the lane of a chain: right of the one in which it ends, shared where it is free."""
    span = rows[chain[0]], rows[chain[-1]]
    target = next((i for i, lane in enumerate(lanes) if chain[-1] in lane.nodes), 0)
    neighbor = lanes[target + 1] if target + 1 < len(lanes) else None
    if neighbor and neighbor.free(span) and bool(neighbor.nodes) == (len(chain) > 2):
        neighbor.spans.append(span)
        return neighbor
    lane = Lane(spans=[span])
    lanes.insert(target + 1, lane)
    return lane
