"""Export a trained model as the next version of a served model.

Example: `python -m savedmodels.export --model runs/digits --output savedmodels --name digits`
writes `savedmodels/digits/1/`, then `savedmodels/digits/2/`, and so on: the layout that TF Serving
reads. A version appears complete or not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_preact.export import export_savedmodel
from savedmodels.versions import versions
from training.trained import add_trained_arguments, load_trained


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error.
    """
    options = _parser().parse_args(argv)
    try:
        path = _export(options)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"savedmodels.export: {error}", file=sys.stderr)
        return 2
    print(f"SavedModel: {path}")
    return 0


def _export(options: argparse.Namespace) -> Path:
    trained = load_trained(options)
    class_names = trained.record.get("class_names")
    if options.labels:
        class_names = options.labels.read_text(encoding="utf-8").splitlines()
    folder = options.output / (options.name or trained.model.name)
    version = options.version or max(versions(folder), default=0) + 1
    return export_savedmodel(
        trained.model,
        folder / str(version),
        preprocessing=trained.preprocessing,
        class_names=class_names,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more. Received: '{number}'")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.export",
        description="Write a trained model as DIR/NAME/VERSION/, a SavedModel with the signatures "
        "serving_default (images) and serving_bytes (encoded images).",
        allow_abbrev=False,
    )
    add_trained_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the served models"
    )
    parser.add_argument("--name", help="name of the served model (default: the model's own)")
    parser.add_argument(
        "--version",
        type=_positive,
        metavar="N",
        help="version to write, which must not exist (default: one above the highest)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="text file with a class name a line, in order (default: the run's, else the indices)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
