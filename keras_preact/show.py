"""Command line `python -m keras_preact.show NAME`: costs of a net, and a picture of its units."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_preact.analysis import Cost, NetCost, draw_units, model_cost, unit_graphs
from keras_preact.applications import BUILDERS, list_architectures
from keras_preact.architecture import RULES
from keras_preact.messages import did_you_mean
from keras_preact.spec.rules import of_word

FORMATS = ("svg", "png")
_NOTE = (
    "FLOPs are multiply-adds of convolutions, dense layers and attention; activations are the "
    "elements of the convolutions' outputs; both for one image."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 is success."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_preact.show",
        description="Print the costs of a net, and draw its units.",
    )
    parser.add_argument("name", nargs="?", help="a builder, such as PreActResNet50")
    parser.add_argument(
        "--input-size", type=int, metavar="N", help="height and width of an image, in pixels"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the net's Architecture, such as order=original; repeatable",
    )
    parser.add_argument(
        "--output", default=".", metavar="DIR", help="folder for the pictures (default: this one)"
    )
    parser.add_argument(
        "--list", metavar="PATTERN", help='print the names that match, such as "*resnet1*"'
    )
    options = parser.parse_args(arguments)
    if (options.name is None) == (options.list is None):
        parser.error("one of NAME and --list is needed")
    try:
        if options.list is not None:
            print("\n".join(matching_names(options.list)))
        else:
            _show(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _show(options: argparse.Namespace) -> None:
    changes = dict(_change(each) for each in options.set)
    model = build_named(options.name, options.input_size, changes)
    height, width, _ = model.input_shape[1:]
    print(f"{', '.join([options.name, *options.set])}: images of {height} x {width} pixels\n")
    print(table(model_cost(model)))
    print(f"\n{_NOTE}")
    # Flushed, so that the table stands before what may go wrong with the pictures.
    sys.stdout.flush()
    stem = re.sub(r"[^\w.=-]+", "_", "-".join([model.name, *options.set]))
    graphs = unit_graphs(model)
    for kind in FORMATS:
        path = Path(options.output) / f"{stem}.{kind}"
        draw_units(graphs, path)
        print(path)


def matching_names(pattern: str) -> list[str]:
    """Return the names of builders that match a pattern.

    Args:
        pattern: Shell-style pattern, in upper or lower case.

    Returns:
        The names that match.

    Raises:
        ValueError: If none does.
    """
    names = list_architectures(pattern)
    if not names:
        hint = did_you_mean(pattern.strip("*?"), BUILDERS, quote="'")
        raise ValueError(
            f"No net's name matches {pattern!r}.{hint} The nets are {', '.join(BUILDERS)}."
        )
    return names


def build_named(name: str, input_size: int | None, changes: dict[str, Any]) -> keras.Model:
    """Build a net by its name, with random weights.

    Args:
        name: Name of a builder.
        input_size: Height and width of an image, in pixels; None for what it was designed for.
        changes: New values of fields of its `Architecture`.

    Returns:
        The net.

    Raises:
        ValueError: If there is no such builder or field, or a value is out of its range.
    """
    if name not in BUILDERS:
        hint = did_you_mean(name, BUILDERS, quote="'")
        raise ValueError(f"There is no net {name!r}.{hint} The nets are {', '.join(BUILDERS)}.")
    # Checked before the builder's other arguments could take one of the names.
    architecture = BUILDERS[name].architecture.replace(**changes)
    size = architecture.input_size if input_size is None else input_size
    if size < 1:
        raise ValueError(f"`input_size` must be a positive integer. Received: {size}")
    return BUILDERS[name](
        weights=None, input_shape=(size, size, 3), data_format="channels_last", **changes
    )


def _change(text: str) -> tuple[str, Any]:
    """Parse `units=(2,2)` to a field and its value; a value that is no literal is a name."""
    field, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"`--set` takes FIELD=VALUE. Received: {text!r}")
    words = {"true": True, "false": False, "none": "none"}
    if value.lower() in words:
        word = words[value.lower()]
        # Whoever takes the change says that there is no such field.
        return field, of_word(word, RULES[field]) if field in RULES else word
    try:
        return field, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return field, value


def table(cost: NetCost) -> str:
    """Return a net's cost as text, one row per stage, and the total.

    Args:
        cost: Result of `keras_preact.analysis.model_cost`.

    Returns:
        Lines of equal columns, the first of which names them.
    """
    heads = ("stage", "output", "units", "parameters", "FLOPs", "activations", "receptive field")
    rows = [
        (
            stage.name,
            " x ".join(str(size) for size in stage.output_shape),
            str(stage.units or ""),
            *_figures(stage.cost),
            "all" if stage.receptive_field is None else str(stage.receptive_field),
        )
        for stage in cost.stages
    ]
    units = sum(stage.units for stage in cost.stages)
    rows = [heads, *rows, ("total", "", str(units), *_figures(cost.total), "")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.parameters:,}", _scaled(cost.flops), _scaled(cost.activations)


def _scaled(count: int) -> str:
    """Return a number as four digits and a unit: `4.089 G`."""
    for power, unit in ((9, " G"), (6, " M"), (3, " k")):
        if count >= 10**power:
            return f"{count / 10**power:#.4g}{unit}"
    return str(count)


if __name__ == "__main__":
    sys.exit(main())
