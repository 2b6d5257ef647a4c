"""Resident memory of a SavedModel by stage of serving, in a process of its own.

Example: `python -m savedmodels.memory savedmodels/digits`

It is what TensorFlow's C API, the loader of TensorFlow Serving, adds to an empty process. Linux
tells a process what of it is in memory; elsewhere nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from savedmodels.c_api import ServedModel, ServingError, load_library
from savedmodels.check import answers, check
from savedmodels.versions import add_model_argument, version_folder
from training.process_memory import PROCESSES, RESIDENT, process_bytes

LOADED = "loaded"


def resident_bytes(process: int | str = "self") -> int:
    """Return the resident memory of a process, in bytes; see `process_bytes`."""
    return process_bytes(RESIDENT, process)


def memory_by_stage(folder: Path) -> dict[str, int]:
    """Load a SavedModel in this process, and send it its warm-up requests.

    Args:
        folder: `NAME/VERSION/`.

    Returns:
        Resident memory beyond that before, in bytes: `loaded`, then after the requests of each
        signature, by its name, in the order of the requests.

    Raises:
        OSError: If the system does not tell.
        ServingError: As by `savedmodels.check.check`.
    """
    load_library()
    empty = resident_bytes()
    with ServedModel(folder) as model:
        stages = {LOADED: resident_bytes() - empty}
        for name, _ in answers(model, folder):
            stages[name] = resident_bytes() - empty
    return stages


def measured_memory(folder: Path) -> dict[str, int]:
    """Return `memory_by_stage` of a process of its own; nothing where the system does not tell.

    Raises:
        RuntimeError: If the model cannot be loaded, or does not answer its warm-up requests, or a
            signal ends the process.
    """
    if not PROCESSES.exists():
        check(folder)
        return {}
    command = [sys.executable, "-m", "savedmodels.memory", str(folder.absolute())]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode < 0:
        raise RuntimeError(
            f"signal {-done.returncode} ended the process that loads the model to measure its "
            "memory, perhaps for want of memory"
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(done.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 1 if the model does not answer its warm-up requests.
    """
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.memory",
        description="Print as JSON the resident memory, in bytes beyond an empty process, once a "
        "SavedModel is loaded, and after the warm-up requests of each signature.",
        allow_abbrev=False,
    )
    add_model_argument(parser)
    options = parser.parse_args(argv)
    try:
        print(json.dumps(memory_by_stage(version_folder(options.model)), indent=2))
    except (OSError, ServingError) as error:
        print(f"savedmodels.memory: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
