"""Processes that begin with TensorFlow, Keras and the training commands imported.

To import them takes a process four seconds. These are forked from one that has done so, and that
has not begun to compute: settings that TensorFlow reads when it begins may still be given. Tests of
the start itself, or of the memory that a process takes, need real ones.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import IO, Any

import tensorflow as tf

import training.train
import training.tune  # noqa: F401

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
# As in the process of the tests; see `conftest.py`.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
gc.freeze()


def call(function: Callable, *arguments: Any) -> Any:
    """Return what a function of a module returns in a process of its own."""
    with ProcessPoolExecutor(1, FORKS, _without_gpus) as pool:
        return pool.submit(function, *arguments).result()


class Command(FORKS.Process):
    """A command of this project, with what is read of `subprocess.Popen`."""

    stdin = None

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        self.join()
        return self.exitcode

    @property
    def returncode(self) -> int | None:
        return self.exitcode


def start(
    command: Sequence[str],
    log: IO,
    threads: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Command:
    """Start a command as `training.processes.start` does, without GPUs."""
    environment = {**os.environ, **(environment or {})}
    if threads:
        environment |= {f"TF_NUM_{kind}_THREADS": str(threads) for kind in ("INTRAOP", "INTEROP")}
    process = Command(target=_run, args=([*map(str, command)], log.name, environment))
    process.start()
    return process


def _run(command: list[str], log: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    _without_gpus()
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _without_gpus() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
