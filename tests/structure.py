"""Counts of the package's structure, from the syntax tree: `python -m tests.structure [ROOT]`.

A room is a module or a folder in the root of `keras_preact`. A room stands one floor above the
highest room that it imports. A circle is a set of modules that import each other, on whatever path.
Imports inside functions and under `TYPE_CHECKING` count as imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "keras_preact"
# Kinds of unit whose names mean nothing else.
KINDS = ("bottleneck", "inverted_bottleneck", "dense_basic")
ROOT = Path(__file__).resolve().parents[1]

Graph = dict[str, set[str]]


@dataclass
class Module:
    """Imports of one module, as names of modules of the package.

    Attributes:
        imports: All of them.
        in_functions: Those inside a function.
        type_checking: Those under `if TYPE_CHECKING`.
    """

    imports: set[str] = field(default_factory=set)
    in_functions: set[str] = field(default_factory=set)
    type_checking: set[str] = field(default_factory=set)


def modules(root: Path = ROOT) -> dict[str, Module]:
    """Read the imports of every module of the package.

    Args:
        root: Folder that holds the package.

    Returns:
        The modules, by name.
    """
    files = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: _module(name, path, files) for name, path in files.items()}


def _module(name: str, path: Path, known: Iterable[str]) -> Module:
    module = Module()

    def visit(node: ast.AST, in_function: bool, type_checking: bool) -> None:
        for child in ast.iter_child_nodes(node):
            targets = {target for target in _targets(child, known) if target != name}
            module.imports |= targets
            if in_function:
                module.in_functions |= targets
            if type_checking:
                module.type_checking |= targets
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            visit(child, in_function or function, type_checking or guarded)

    visit(ast.parse(path.read_text(encoding="utf-8")), False, False)
    return module


def _targets(node: ast.AST, known: Iterable[str]) -> Iterator[str]:
    """Yield the modules of the package that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module in known:
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in known else node.module


def room(module: str) -> str:
    """Return the room that a module is in: the second part of its name."""
    return (module.split(".") + ["__init__"])[1]


def rooms(found: dict[str, Module], run_time: bool = False) -> Graph:
    """Return the rooms, and the other rooms that each imports.

    Args:
        found: The modules.
        run_time: Whether to count only the imports that run when a module is imported.
    """
    graph: Graph = {}
    for name, module in found.items():
        imports = module.imports
        if run_time:
            imports = imports - module.in_functions - module.type_checking
        into = graph.setdefault(room(name), set())
        into |= {room(target) for target in imports} - {room(name)}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of nodes that reach each other, the largest first."""
    reached = {node: _reached(graph, node) for node in graph}
    found = {
        frozenset(other for other in reached[node] if node in reached[other])
        for node in graph
        if node in reached[node]
    }
    return sorted(map(sorted, found), key=len, reverse=True)


def _reached(graph: Graph, start: str) -> set[str]:
    reached: set[str] = set()
    stack = [start]
    while stack:
        for target in graph.get(stack.pop(), ()):
            if target not in reached:
                reached.add(target)
                stack.append(target)
    return reached


def floors(graph: Graph) -> dict[str, int]:
    """Return the floor of each node, from 1. The nodes of a circle share a floor."""
    reached = {node: _reached(graph, node) for node in graph}
    heights: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in heights:
            below = [each for each in reached[node] if node not in reached[each]]
            heights[node] = 1 + max(map(height, below), default=0)
        return heights[node]

    return {node: height(node) for node in graph}


def unit_places(root: Path = ROOT) -> list[str]:
    """Return the places that name kinds of unit, where a new kind may have to be added.

    They are the definitions of a module or a class that contain the name of a kind as a string. The
    rows of published nets do not count: a new kind leaves them unchanged.
    """
    places = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        if path.stem in ("applications", "published"):
            continue
        for owner, definition in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
            strings = (each for each in ast.walk(definition) if isinstance(each, ast.Constant))
            if any(each.value in KINDS for each in strings):
                name = ast.unparse(definition).split("=")[0].split(":")[0].split("(")[0]
                places.append(f"{path.relative_to(root)}: {owner}{name.strip()}")
    return places


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            yield from ((f"{statement.name}.", each) for each in statement.body)
        else:
            yield "", statement


def frames(root: Path = ROOT) -> list[str]:
    """Return the calls from `PreActResNet50()` to its first convolution in a unit.

    They are functions of the package on the stack when the layer is made, the outermost first.
    """
    import keras_preact

    stack: list[str] = []
    folder = str(root / PACKAGE)

    def look(frame, event, argument):
        code = frame.f_code
        if stack or event != "call" or code.co_name != "__init__":
            return
        if frame.f_locals.get("kwargs", {}).get("name") != "stage2_unit1_conv1":
            return
        while frame:
            code = frame.f_code
            if code.co_filename.startswith(folder):
                stack.append(f"{Path(code.co_filename).relative_to(root)}: {code.co_qualname}")
            frame = frame.f_back

    sys.setprofile(look)
    try:
        keras_preact.PreActResNet50(weights=None, input_shape=(32, 32, 3), units=(1, 1, 1, 1))
    finally:
        sys.setprofile(None)
    return stack[::-1]


def main(arguments: list[str]) -> None:
    """Print the counts of the package in a folder, by default of this repository."""
    root = Path(arguments[0]).resolve() if arguments else ROOT
    sys.path.insert(0, str(root))
    found = modules(root)
    graph = {name: module.imports for name, module in found.items()}
    in_rooms = rooms(found)
    heights = floors(rooms(found, run_time=True))
    lines = {
        "modules in the root": [path.stem for path in (root / PACKAGE).glob("[!_]*.py")],
        "rooms": list(in_rooms),
        "arrows between rooms": [f"{a} > {b}" for a in in_rooms for b in in_rooms[a]],
        "circles of modules": [f"{len(circle)} modules" for circle in circles(graph)],
        "modules with our own imports inside functions": [
            name for name, module in found.items() if module.in_functions
        ],
        "modules with our own imports under TYPE_CHECKING": [
            name for name, module in found.items() if module.type_checking
        ],
        "places that name kinds of unit": unit_places(root),
        "frames from PreActResNet50() to the first convolution of a unit": frames(root),
    }
    for title, values in lines.items():
        print(f"{title}: {len(values)}")
        if len(values) < 40:
            print(*(f"    {value}" for value in values), sep="\n")
    print(f"floors: {max(heights.values())}")
    for floor in sorted(set(heights.values()), reverse=True):
        print(f"    {floor}:", *sorted(name for name in heights if heights[name] == floor))


if __name__ == "__main__":
    main(sys.argv[1:])
