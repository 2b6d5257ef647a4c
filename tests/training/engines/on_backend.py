"""Train on the backend of this process, once for each list of devices, and write what came out.

Run as `python on_backend.py OUTPUT.json ARGUMENTS`, with the arguments of `training.train`: Keras
takes one backend per process.
"""

import json
import os
import sys
from pathlib import Path

import keras

from training.run import read_run
from training.train import main


def run(arguments: list[str], devices: list[str]) -> dict:
    """Train, and return the history."""
    keras.backend.clear_session(free_memory=False)
    folder = Path(os.environ["RUNS"]) / "-".join([keras.backend.backend(), *devices])
    arguments = [*arguments, "--output", str(folder)]
    if devices:
        arguments += ["--devices", *devices]
    status = main(arguments)
    return {
        "status": status,
        "history": read_run(folder)["history"],
        "devices": read_run(folder)["devices"],
    }


if __name__ == "__main__":
    output, *rest = sys.argv[1:]
    several = [["CPU:0"], ["CPU:0", "CPU:1"]] if keras.backend.backend() == "jax" else [[]]
    Path(output).write_text(json.dumps([run(rest, devices) for devices in several]))
