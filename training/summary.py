"""Summary of a finished run: `python -m training.summary RUN`. It needs no TensorFlow."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def summary(folder: Path, exported: Path | None = None) -> str:
    """Describe a run that `training.evaluate` has evaluated.

    Args:
        folder: The folder of the run.
        exported: Folder of the served model that was exported from it, if there is one.

    Returns:
        One line for each step, and one with the next command to try, if there is one.

    Raises:
        FileNotFoundError: If the folder holds no run, or one that was not evaluated.
        ValueError: If a record is damaged.
    """
    with _record(folder / "run.json") as run:
        trained, following = _trained(run), _following(run, f"{folder}-se")
    with _record(folder / "evaluation.json") as evaluation:
        measured, pictures = _measured(evaluation), _pictures(evaluation)
    lines = {
        "Trained": trained,
        **measured,
        "Pictures": ", ".join(str(folder / name) for name in pictures),
        "Exported": _path(exported) if exported else "not yet",
    }
    if following:
        lines["Try next"] = following
    return "\n".join(f"{name:8}  {text}" for name, text in lines.items())


def _trained(run: dict[str, Any]) -> str:
    seconds = sum(epoch["seconds"] for epoch in run["history"])
    epochs = len(run["history"])
    return (
        f"{run['recipe']['model']} on {run['images']['train']:,} images of {run['source']}, "
        f"{epochs} {'epoch' if epochs == 1 else 'epochs'}, {seconds:.0f} s"
    )


def _following(run: dict[str, Any], output: str) -> str | None:
    """Return the command that trains the same net with attention, as a shell takes it.

    There is none for a run of another command, of weights to start from, which are of a net without
    attention, or of a net that has it.
    """
    words = shlex.split(run["command"])
    program, arguments = words[:3], words[3:]
    recipe = run["recipe"]
    if program[1:] != ["-m", "training.train"] or recipe.get("init"):
        return None
    # An earlier version noted the options alone.
    if run.get("attention", recipe.get("model_options", {}).get("attention")) is not None:
        return None
    command = [_path(Path(sys.executable)), *program[1:], *_without_output(arguments)]
    return shlex.join([*command, "--output", output, "--model-options", 'attention="se"'])


def _without_output(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command without its folder."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output")
    return parser.parse_known_args(arguments)[1]


def _measured(evaluation: dict[str, Any]) -> dict[str, str]:
    where = f"{evaluation['images']:,} images of {evaluation['source']} ({evaluation['split']})"
    if "mAP" in evaluation:
        labels = len(evaluation["per_label"])
        return {"mAP": f"{evaluation['mAP']:.2%}, the mean over {labels} labels, on {where}"}
    return {"Accuracy": f"{evaluation['top1']:.2%} of {where}"}


def _pictures(evaluation: dict[str, Any]) -> list[str]:
    # Labels have no matrix of confusion.
    return ["curves.png"] if "mAP" in evaluation else ["curves.png", "confusion.png"]


@contextmanager
def _record(path: Path) -> Iterator[dict[str, Any]]:
    """Read a record, and name its file in the error if it lacks something that is asked of it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: it is no record.")
    try:
        yield record
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error}.") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _path(path: Path) -> str:
    """Return a path in the working directory as relative to it."""
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0, or 2 if there is no evaluated run.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.summary", description="Say what a run has achieved."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    parser.add_argument(
        "--exported", type=Path, metavar="DIR", help="folder of the model exported from it"
    )
    options = parser.parse_args(arguments)
    try:
        print(summary(options.run, options.exported))
    except (OSError, ValueError) as error:
        print(f"training.summary: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
