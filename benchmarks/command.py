"""Parts of all commands: the line that a report shows, counts as arguments, errors."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Variables of the environment that a command line shows where they are changed.
_DEFAULTS = {
    "KERAS_BACKEND": "tensorflow",
    "KERAS_PREACT_WITHOUT": "",
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


def command_line(module: str, arguments: Sequence[str] | None = None) -> str:
    """Return a command as it was run: the environment that decides a result, and the arguments.

    Args:
        module: The module.
        arguments: Its arguments; those of this process by default.

    Returns:
        The command line. The path of its images is `DATA/` and their name.
    """
    environment = {name: os.environ.get(name, default) for name, default in _DEFAULTS.items()}
    changed = [f"{name}={value}" for name, value in environment.items() if value != _DEFAULTS[name]]
    given = _images_named(sys.argv[1:] if arguments is None else arguments)
    return shlex.join([*changed, "python", "-m", module, *given])


def _images_named(arguments: Sequence[str]) -> list[str]:
    """Leave out of the path after `--data` the folders of this machine."""
    named = list(arguments)
    for place, each in enumerate(arguments):
        flag = "--data=" if each.startswith("--data=") else ""
        if (flag or place and arguments[place - 1] == "--data") and os.sep in each:
            named[place] = f"{flag}DATA/{Path(each).name}"
    return named


def failed(module: str, error: Exception) -> int:
    """Say why a command failed.

    Args:
        module: The module.
        error: The reason.

    Returns:
        The exit status: 2 for a wrong argument, else 1.
    """
    print(f"{module}: {error}", file=sys.stderr)
    return 2 if isinstance(error, ValueError) else 1


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an argument that is a count.

    Args:
        least: The least that it may be.

    Returns:
        The type, for `argparse`.
    """

    def count(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more. Received: {text}")
        return number

    return count
