"""The command line: `python -m keras_preact.weights list | verify | convert | …`."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

from keras_preact.architecture import RULES
from keras_preact.spec.rules import of_word
from keras_preact.weights import convert, convert_in_order
from keras_preact.weights.catalogue import matching
from keras_preact.weights.verify import cells, verify

# Columns of `verify`.
_LINE = "{:55} {:>7}  {:9}  {:17}  {}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success."""
    parser = argparse.ArgumentParser(prog="python -m keras_preact.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="print the published weights")
    listing.add_argument(
        "pattern", nargs="?", default="*", help='pattern of builders, such as "BiT*"'
    )
    checking = commands.add_parser(
        "verify", help="download published weights, and check files, shapes and published outputs"
    )
    checking.add_argument("pattern", nargs="?", default="*", help="pattern of builders")
    conversion = commands.add_parser("convert", help="write another library's weights for Keras")
    conversion.add_argument("source_file", help=".safetensors, .npz, .weights.h5, .keras or .h5")
    conversion.add_argument("--to", required=True, metavar="OUT.weights.h5")
    conversion.add_argument("--architecture", help="builder of the net; identified by default")
    in_order = commands.add_parser(
        "convert-in-order",
        help="write a net with the weights of a file whose layer names say nothing",
    )
    in_order.add_argument(
        "source_file", help="checkpoint of TensorFlow (without .index), .weights.h5, .keras or .h5"
    )
    in_order.add_argument("--to", required=True, metavar="OUT.keras")
    in_order.add_argument("--architecture", required=True, help="builder of the net")
    in_order.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="field of the architecture that differs, such as use_bias=true; may be repeated",
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            print(table(options.pattern))
        elif options.command == "verify":
            return report(options.pattern)
        elif options.command == "convert-in-order":
            net = convert_in_order(
                options.source_file, options.to, options.architecture, dict(options.option)
            )
            print(f"{options.to}: {net.name} with {net.count_params():,} weights")
        else:
            name = convert(options.source_file, options.to, options.architecture)
            print(f"{options.to}: weights of {name}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _option(text: str) -> tuple[str, Any]:
    """Read `name=value`, where the value is written as in TOML, or is a name."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE. Received: {text!r}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        # TOML has no null. Whoever takes the option says that there is no such field.
        return name, of_word(value, RULES[name]) if name in RULES else value


def report(pattern: str) -> int:
    """Check the entries of some nets, with a line for each as soon as it is checked.

    Args:
        pattern: Shell-style pattern of builders' names.

    Returns:
        0 if all of them are as published, else 1.

    Raises:
        ValueError: If no entry is of such a builder.
    """
    failed, entries = 0, matching(pattern)
    print(_LINE.format("weights", "MB", "hash", "outputs differ by", ""), flush=True)
    for entry in entries:
        verdict = verify(entry)
        print(_LINE.format(*cells(verdict)), flush=True)
        failed += bool(verdict.error)
    print(f"{len(entries) - failed} of {len(entries)} entries are as published.")
    return 1 if failed else 0


def table(pattern: str) -> str:
    """Format the catalogue as text, with one row per entry.

    Args:
        pattern: Shell-style pattern of builders' names.

    Returns:
        Lines of equal columns, the first of which names them.

    Raises:
        ValueError: If no entry is of such a builder.
    """
    rows = [("weights", "builder", "classes", "input", "top-1", "trained on", "licence")]
    for entry in matching(pattern):
        figures = ", ".join(f"{each.top1:g} at {each.input_size}" for each in entry.figures)
        rows.append(
            (
                entry.name,
                entry.builder,
                "" if entry.classes is None else str(entry.classes),
                str(entry.input_size),
                figures,
                entry.training_data,
                entry.licence,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
