"""Commands of this package as processes that end with the process that started them.

A killed process cannot stop what it has started. So a command runs here with a pipe as its
standard input: when the other end closes, however that came about, it ends.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

# The exit status of a run that was asked to stop: EX_TEMPFAIL of sysexits.h, "try again later".
PREEMPTED = 75
# Minutes that a worker waits for others, unless it is told otherwise.
WAIT_MINUTES = 60.0
# Seconds between two lines that say who is missing, where that changes.
_BETWEEN = 10.0


def start(
    command: Sequence[str],
    log: IO | None = None,
    threads: int = 0,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """Start a command of this package.

    Args:
        command: The module, such as `training.train`, and its arguments.
        log: Where its output goes; by default, where that of this process does.
        threads: Threads that TensorFlow computes on; 0 for all cores.
        environment: Environment variables that it has beside those of this process.

    Returns:
        The process, which ends at the latest with this one.
    """
    environment = {**os.environ, **(environment or {})}
    if threads:
        count = str(threads)
        environment |= {"TF_NUM_INTRAOP_THREADS": count, "TF_NUM_INTEROP_THREADS": count}
    return subprocess.Popen(
        [sys.executable, "-m", "training.processes", *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        env=environment,
    )


def stop(process: subprocess.Popen) -> None:
    """Kill a process, if it still runs, and wait until it is gone."""
    process.kill()
    process.wait()
    if process.stdin:
        process.stdin.close()


def run(command: Sequence[str], log: Path, threads: int = 0) -> int:
    """Run a command of this package to its end.

    Args:
        command: See `start`.
        log: The file its output is added to.
        threads: See `start`.

    Returns:
        Its exit status; that of a process killed by signal `n` is `-n`.
    """
    with open(log, "a", encoding="utf-8") as file:
        process = start(command, file, threads)
        try:
            return process.wait()
        finally:
            stop(process)


class Preempted(Exception):
    """End of a process that was asked to stop; all that it needs to go on is saved."""


@contextlib.contextmanager
def termination() -> Iterator[threading.Event]:
    """Make an event that SIGTERM sets instead of ending the process."""
    terminated = threading.Event()
    handler = signal.signal(signal.SIGTERM, lambda number, frame: terminated.set())
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, handler)


def wait_for(missing: Callable[[], str], minutes: float, silent: float = 0.0) -> None:
    """Wait for other processes, and say so at once, every minute, and when others are missing.

    Args:
        missing: Returns what is missing, such as `"the chief at 10.0.0.1:8000"`; an empty text once
            nothing is. It is asked several times a second.
        minutes: Longest time to wait.
        silent: Seconds at the beginning in which nothing is said.

    Raises:
        TimeoutError: If something is missing then.
    """
    started = time.monotonic()
    said, due = "", silent
    while what := missing():
        waited = time.monotonic() - started
        if waited >= 60 * minutes:
            raise TimeoutError(
                f"Waited {minutes:g} minutes for {what}. Start it, and this command again; "
                "--wait-minutes allows for more."
            )
        if waited >= due or said not in ("", what) and waited >= due - 60 + _BETWEEN:
            print(f"Waiting for {what} ({waited // 60:g} of {minutes:g} minutes).", flush=True)
            said, due = what, waited + 60
        time.sleep(min(0.25, 60 * minutes - waited))


def last_lines(log: Path, count: int) -> str:
    """Return the last lines of a log.

    Args:
        log: The file.
        count: Number of lines.

    Returns:
        Its last lines.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-count:])


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module named by the first argument, until the standard input ends."""
    del sys.argv[0]
    # The folder that `python -m` looks for modules in.
    sys.path[0] = os.getcwd()
    threading.Thread(target=_end_with_input, daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
