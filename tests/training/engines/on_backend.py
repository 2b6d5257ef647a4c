"""Train on the backend of this process, once for each list of devices, and write what came out.

Run as `python on_backend.py OUTPUT.json ARGUMENTS`, with the arguments of `training.train`: Keras
takes one backend per process.
"""

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np

from training.engines.prepare import prepare
from training.run import read_run
from training.train import main, parse_arguments


def first_batches(arguments: list[str], count: int) -> list[float]:
    """Return a number for each array of the first batches."""
    batches = iter(prepare(*parse_arguments(arguments)).batches.training(0))
    return [
        float(np.abs(np.asarray(array, "float64")).sum())
        for _ in range(count)
        for array in next(batches)
    ]


def run(arguments: list[str], devices: list[str]) -> dict:
    """Train, and return the history with what the batches were."""
    keras.backend.clear_session(free_memory=False)
    folder = Path(os.environ["RUNS"]) / "-".join([keras.backend.backend(), *devices])
    arguments = [*arguments, "--output", str(folder)]
    if devices:
        arguments += ["--devices", *devices]
    status = main(arguments)
    return {
        "status": status,
        "batches": first_batches(arguments, 2),
        "history": read_run(folder)["history"],
        "devices": read_run(folder)["devices"],
    }


if __name__ == "__main__":
    output, *rest = sys.argv[1:]
    several = [["CPU:0"], ["CPU:0", "CPU:1"]] if keras.backend.backend() == "jax" else [[]]
    Path(output).write_text(json.dumps([run(rest, devices) for devices in several]))
