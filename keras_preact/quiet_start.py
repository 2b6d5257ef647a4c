"""Commands without the lines that TensorFlow prints whenever it starts.

While it is imported and looks for devices, TensorFlow writes to standard error which kernels,
drivers and instructions it has found, from C++ and whatever the log level. A command calls
`install`, which drops those lines and passes on all others. A program that imports `keras_preact`
sees all that TensorFlow prints.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# The lines are known by the file of TensorFlow that logs them, or by their first words. Error 303
# is that there is no CUDA driver at all; a driver that fails has other numbers.
_START = re.compile(
    rb"I\d{4} [\d:. ]+ (port|cudart_stub|cpu_feature_guard)\.cc:\d+\] "
    rb"|E\d{4} [\d:. ]+ cuda_platform\.cc:\d+\] failed call to cuInit: .*\(303\)$"
    rb"|To enable the following instructions: "
    rb"|WARNING: All log messages before absl::InitializeLog\(\) is called "
)


def install() -> None:
    """Drop the lines of TensorFlow's start, once this process imports TensorFlow."""
    sys.meta_path.insert(0, _TensorFlowFinder())


def is_command(package: str) -> bool:
    """Return whether `python -m package.module` is importing the package to find that module."""
    return sys.argv[:1] == ["-m"] and any(
        argument.startswith(f"{package}.") for argument in sys.orig_argv
    )


@contextlib.contextmanager
def without_start_lines() -> Iterator[None]:
    """Drop the lines of TensorFlow's start from standard error, and pass on all others.

    Another process does so: if this one is aborted, as TensorFlow does on a processor that lacks
    its instructions, the reason has been passed on.
    """
    sys.stderr.flush()
    reading_end, writing_end = os.pipe()
    reader = os.fork()
    if not reader:
        os.close(writing_end)
        _pass_on(reading_end)
    os.close(reading_end)
    stderr = os.dup(2)
    os.dup2(writing_end, 2)
    os.close(writing_end)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        # Later lines must not overtake those printed until here.
        os.waitpid(reader, 0)


def _pass_on(reading_end: int) -> None:
    """Copy lines to standard error until the input ends, and end the process."""
    try:
        # Ctrl-C in a terminal reaches this process too; the other one says what comes of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with open(reading_end, "rb") as lines:
            for line in lines:
                if not _START.match(line):
                    os.write(2, line)
    finally:
        os._exit(0)


class _TensorFlowFinder(MetaPathFinder):
    """Finds TensorFlow where it is, and has it imported without its start lines."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            exec_module = spec.loader.exec_module

            def exec_quietly(module: ModuleType) -> None:
                # A process with threads, as JAX starts, must not fork.
                threads = "jax" in sys.modules
                with contextlib.nullcontext() if threads else without_start_lines():
                    exec_module(module)
                    # This looks for a CUDA driver. Which devices are used can still be chosen.
                    module.config.list_physical_devices()

            spec.loader.exec_module = exec_quietly
        return spec
