"""Launcher of all the workers of a job on one machine.

Example: `python -m training.launch --workers 2 -- --recipe digits --data digits --output runs/two`

Each worker is a `python -m training.train` with the arguments after `--` and its place among the
workers in the variable `TF_CONFIG`. On several machines a scheduler starts the workers instead;
`training/cluster` has files for Kubernetes and Slurm.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from training.processes import PREEMPTED

# Seconds that workers have to end by themselves after one of them has ended with an error.
PATIENCE = 10.0

# Seconds between two looks at the workers.
INTERVAL = 0.1


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on.

    Args:
        count: How many.

    Returns:
        Different port numbers.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def environments(workers: int, gpus_per_worker: int) -> list[dict[str, str]]:
    """Return the environment variables of each worker.

    Args:
        workers: Number of workers.
        gpus_per_worker: GPUs that each has for itself; with 0 it computes on the CPU.

    Returns:
        Variables to add to the environment of this process, per worker.

    Raises:
        ValueError: If fewer GPUs are visible here.
    """
    gpus = _visible_gpus(workers * gpus_per_worker)
    addresses = [f"localhost:{port}" for port in free_ports(workers)]
    return [
        {
            "TF_CONFIG": json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
            "CUDA_VISIBLE_DEVICES": ",".join(
                gpus[index * gpus_per_worker : (index + 1) * gpus_per_worker]
            ),
        }
        for index in range(workers)
    ]


def _visible_gpus(count: int) -> list[str]:
    """Return the names of the first GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(gpu) for gpu in range(count)]
    # For CUDA, the list ends before an entry that is no GPU.
    names = list(itertools.takewhile(lambda name: name not in ("", "-1"), visible.split(",")))
    if len(names) < count:
        raise ValueError(
            f"The workers need {count} GPUs in all. Received: {len(names)}, of "
            f"CUDA_VISIBLE_DEVICES={visible!r}"
        )
    return names


class Job:
    """The workers of a job, as processes.

    Args:
        arguments: The arguments of `training.train`.
        workers: Number of workers.
        gpus_per_worker: GPUs of each.
    """

    def __init__(self, arguments: Sequence[str], workers: int, gpus_per_worker: int) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-u", "-m", "training.train", *arguments],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C reaches only the launcher, which asks the workers to stop.
                start_new_session=True,
            )
            for environment in environments(workers, gpus_per_worker)
        ]
        self._printers = [
            threading.Thread(target=_print_lines, args=(index, process.stdout), daemon=True)
            for index, process in enumerate(self._processes)
        ]
        for index, (process, printer) in enumerate(
            zip(self._processes, self._printers, strict=True)
        ):
            print(f"[{index}] process {process.pid}", flush=True)
            printer.start()

    def stop(self) -> None:
        """Ask all workers to save the run and stop."""
        self._send(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for all workers to end; once one has failed, stop the others.

        Returns:
            0 if all have succeeded, otherwise the status of the first that did not: 128 plus the
            number of the signal if one ended it, as a shell has it.
        """
        while None in (statuses := self._statuses()) and not any(statuses):
            time.sleep(INTERVAL)
        # Of several at once the least: a signal's is below 0, and those of workers that only miss
        # another are above those of errors.
        status = min(filter(None, statuses), default=0)
        if status:
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline and None in self._statuses():
                time.sleep(INTERVAL)
            # Without the others a worker only waits for them, and does not heed a request.
            self._send(signal.SIGKILL)
        for process, printer in zip(self._processes, self._printers, strict=True):
            process.wait()
            printer.join()
        return 128 - status if status < 0 else status

    def _statuses(self) -> list[int | None]:
        """Return the exit status of each worker; None of one that is running."""
        return [process.poll() for process in self._processes]

    def _send(self, number: int) -> None:
        for process in self._processes:
            # Nothing happens to one that has ended.
            process.send_signal(number)


def _print_lines(index: int, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"[{index}] {line}", end="", flush=True)


def run_job(
    arguments: Sequence[str], workers: int, *, gpus_per_worker: int = 0, restarts: int = 0
) -> int:
    """Run a job to its end.

    Args:
        arguments: The arguments of `training.train`.
        workers: Number of workers.
        gpus_per_worker: GPUs of each.
        restarts: How many times all workers are started again after a signal has ended one of
            them. After an error of its own a worker would only fail again.

    Returns:
        The exit status of the job, see `Job.wait`.
    """
    for restart in range(restarts + 1):
        if restart:
            print(f"Starting all workers again: {restart} of {restarts}.", flush=True)
        job = Job(arguments, workers, gpus_per_worker)
        with _stopping(job):
            status = job.wait()
        print(f"The job ended with status {status}.", flush=True)
        if status < 128:
            break
    return status


@contextlib.contextmanager
def _stopping(job: Job) -> Iterator[None]:
    """Pass requests to stop this process on to a job."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.signal(number, lambda *_: job.stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit status of the job.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.launch",
        description="Train on several workers on this machine.",
        epilog=f"The exit status is that of the workers: 0; {PREEMPTED} if the job was stopped by "
        "SIGTERM or Ctrl-C and can go on; otherwise that of the first worker that failed.",
    )
    parser.add_argument("--workers", type=int, required=True, metavar="N", help="number of workers")
    parser.add_argument(
        "--gpus-per-worker",
        type=int,
        default=0,
        metavar="N",
        help="GPUs that each worker has for itself, of those in CUDA_VISIBLE_DEVICES, if it is set "
        "(default: 0, which is the CPU)",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="times that all workers are started again after a signal has ended one, to go on "
        "from the last checkpoint (default: 0)",
    )
    parser.add_argument(
        "arguments", nargs="+", metavar="ARGUMENT", help="arguments of training.train, after --"
    )
    options = parser.parse_args(argv)
    if options.workers < 1 or options.gpus_per_worker < 0 or options.restarts < 0:
        parser.error(
            "--workers must be 1 or more, --gpus-per-worker and --restarts 0 or more. Received: "
            f"{options.workers}, {options.gpus_per_worker}, {options.restarts}"
        )
    try:
        return run_job(
            options.arguments,
            options.workers,
            gpus_per_worker=options.gpus_per_worker,
            restarts=options.restarts,
        )
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
