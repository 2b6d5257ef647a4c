"""A chief and its workers as processes of one machine, each replaced when it dies."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from training import processes
from training.search.tuner import CHIEF, worker_name

# The search is given up after this number of deaths of one process.
MAX_DEATHS = 20
# Exit status of a command that is of no use to start again.
_REFUSALS = (1, 2)
_ADDRESS = "127.0.0.1"


class Cluster:
    """The chief and the workers of a search.

    The chief's oracle gives a worker that replaces another of its name the trial that this one
    was at. A chief that replaces another goes on from the files, and the workers wait for it.

    Args:
        command: The module and arguments that each of them runs, the same for all.
        options: For each worker, the arguments that it has beside these.
    """

    def __init__(self, command: Sequence[str], options: Sequence[Sequence[str]]) -> None:
        self._command = command
        self._options = {CHIEF: []}
        self._options |= {worker_name(index): own for index, own in enumerate(options)}
        self._port = str(_free_port())
        self._deaths = dict.fromkeys(self._options, 0)
        self.processes: dict[str, subprocess.Popen] = {}

    def run(self) -> int:
        """Start all, and see to them until the search is over.

        Returns:
            0 once every worker has heard that nothing is left to do; otherwise the exit status of
            the first that gave up.
        """
        try:
            for name in self._options:
                self._start(name)
            while len(self.processes) > 1:
                time.sleep(0.2)
                for name, process in list(self.processes.items()):
                    if process.poll() is not None and (status := self._ended(name)):
                        return status
            # KerasTuner's chief looks up every 20 seconds only; its state is on disk.
            return 0
        finally:
            for process in self.processes.values():
                processes.stop(process)

    def _start(self, name: str) -> None:
        environment = {
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": _ADDRESS,
            "KERASTUNER_ORACLE_PORT": self._port,
            "no_grpc_proxy": _ADDRESS,
        }
        command = [*self._command, *self._options[name]]
        self.processes[name] = processes.start(command, environment=environment)
        print(f"{name}: process {self.processes[name].pid}", flush=True)

    def _ended(self, name: str) -> int:
        """Replace a process that died, or return the exit status of one that gave up."""
        status = self.processes.pop(name).returncode
        if status == 0:
            return 0
        if status in _REFUSALS:
            return status
        self._deaths[name] += 1
        print(f"{name} died, exit status {status}.", file=sys.stderr, flush=True)
        if self._deaths[name] > MAX_DEATHS:
            print(f"{name} has died {MAX_DEATHS + 1} times; giving up.", file=sys.stderr)
            return 1
        self._start(name)
        return 0


def share_devices(devices: Sequence[str], workers: int) -> list[list[str]]:
    """Divide GPUs among workers; CPUs are logical ones that each worker has for itself.

    Args:
        devices: Names such as `GPU:0`.
        workers: Number of workers.

    Returns:
        The devices of each worker.

    Raises:
        ValueError: If there are GPUs, and not the same number for each.
    """
    if not any(name.startswith("GPU") for name in devices):
        return [list(devices)] * workers
    each, rest = divmod(len(devices), workers)
    if not each or rest:
        raise ValueError(
            f"The GPUs must be shared out evenly among {workers} workers: name as many with "
            f"--devices, or start another number of workers. Received: {' '.join(devices)}"
        )
    return [list(devices[index * each : (index + 1) * each]) for index in range(workers)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        return probe.getsockname()[1]
