"""Roll call of the workers of a job, before TensorFlow waits for them without a word.

Every worker asks the first, the chief, who is missing, several times a second, until nobody is.
Meanwhile it holds the port of its own address, so that a second worker there is noticed:
TensorFlow's servers would share it. A question is one line of JSON on a connection of its own, and
so is the answer.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from training.processes import Preempted, termination, wait_for

# Seconds after which a worker that was not heard of is missing again.
GONE = 5.0
# Seconds that a connection may take.
CONNECT = 2.0
# Seconds in which nobody is called missing, since processes need not start at once.
SILENT = 3.0
# Seconds in which a chief that gives up says so to those who ask.
FAREWELL = 2.0
# Missing workers that are named; of more, the number is told.
NAMED = 4
# Bytes of the longest question or answer.
LONGEST = 2**20


def call_roll(workers: Sequence[str], index: int, minutes: float) -> None:
    """Wait until every worker of a job is there, and say who is missing.

    Args:
        workers: `host:port` of each.
        index: The place of this process among them.
        minutes: Longest time to wait.

    Raises:
        OSError: If another process holds the port of this worker.
        ValueError: If a worker of this place is there already, or has other addresses.
        TimeoutError: If some are still missing after that time.
        Preempted: After SIGTERM.
    """
    register = Register(workers)
    question = {"workers": list(workers), "index": index, "process": uuid.uuid4().hex}
    missing = _chief_looks if index == 0 else _others_ask
    with termination() as terminated, _answering(register, index):

        def look() -> str:
            if terminated.is_set():
                raise Preempted("Stopped as asked, before all workers were there.")
            return missing(register, question)

        try:
            wait_for(look, minutes, SILENT)
        except TimeoutError as error:
            register.give_up(str(error))
            raise


class Register:
    """The chief's list of those who are there.

    Args:
        workers: `host:port` of each.
    """

    def __init__(self, workers: Sequence[str]) -> None:
        self.workers = list(workers)
        self._given_up = ""
        self._seen: dict[int, tuple[str, float]] = {}
        # Those who know that nobody is missing, and ask no more.
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Note a worker, and say who is missing.

        Args:
            question: Its `workers`, `index` and `process`, a name that no other process has.

        Returns:
            The numbers of those `missing`; or the reason of a `refusal`, or why the chief has
            `given_up`.
        """
        index, process = question["index"], question["process"]
        with self._lock:
            if self._given_up:
                return {"given_up": self._given_up}
            if question["workers"] != self.workers:
                return {"refusal": _other_addresses(self.workers, question["workers"])}
            if self._is_here(index) and self._seen[index][0] != process:
                return {"refusal": f"{self._name(index)} is there twice: {_TWICE}"}
            self._seen[index] = process, time.monotonic()
            missing = self._missing()
            if not missing:
                self._told.add(index)
            return {"missing": missing}

    def untold(self) -> list[int]:
        """Return the numbers of those who do not know yet that nobody is missing."""
        with self._lock:
            return [each for each in range(1, len(self.workers)) if each not in self._told]

    def give_up(self, reason: str) -> None:
        """Tell those who are there that the chief has waited too long."""
        with self._lock:
            self._given_up = reason
        time.sleep(FAREWELL)

    def _missing(self) -> list[int]:
        here = self._told | {each for each in self._seen if self._is_here(each)}
        return [each for each in range(len(self.workers)) if each not in here]

    def _is_here(self, index: int) -> bool:
        return index in self._seen and time.monotonic() - self._seen[index][1] < GONE

    def _name(self, index: int) -> str:
        return name_of(index, self.workers)


_TWICE = "each process needs an `index` of its own in TF_CONFIG."


def name_of(index: int, workers: Sequence[str]) -> str:
    """Return a worker's number and address, for people."""
    chief = ", the chief," if index == 0 else ""
    return f"worker {index}{chief} at {workers[index]}"


def names_of(indices: Sequence[int], workers: Sequence[str]) -> str:
    """Return the numbers and addresses of workers, of many only the first; "" of none."""
    named = [name_of(each, workers) for each in indices[:NAMED]]
    if len(indices) > NAMED:
        named.append(f"{len(indices) - NAMED} more of {len(workers)} workers")
    return " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]]))


def _other_addresses(chief: list[str], own: list[str]) -> str:
    return (
        "All workers need the same addresses in TF_CONFIG. "
        f"Received: {' '.join(own)}, where the chief has {' '.join(chief)}"
    )


def _chief_looks(register: Register, question: dict[str, Any]) -> str:
    """Return who is missing, for the chief."""
    try:
        # Another chief may be at the address that the others ask.
        answer = _ask(register.workers[0], question)
    except OSError:
        # A host need not reach itself by the address that others have for it.
        answer = register.answer(question)
    # TensorFlow waits for those who go on, so nobody goes before all know.
    return _read_answer(answer, register) or names_of(register.untold(), register.workers)


def _others_ask(register: Register, question: dict[str, Any]) -> str:
    """Return who is missing, for all but the chief."""
    try:
        answer = _ask(register.workers[0], question)
    except OSError:
        return name_of(0, register.workers)
    return _read_answer(answer, register)


def _read_answer(answer: dict[str, Any], register: Register) -> str:
    if "given_up" in answer:
        raise TimeoutError(answer["given_up"])
    if "refusal" in answer:
        raise ValueError(answer["refusal"])
    return names_of(answer["missing"], register.workers)


def _ask(address: str, question: dict[str, Any]) -> dict[str, Any]:
    """Ask the process at an address.

    Raises:
        OSError: If there is none, or something else than a worker of this package.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), CONNECT) as connection:
        connection.sendall(json.dumps(question).encode() + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline(LONGEST)
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ConnectionError(f"{address} is no worker.") from error
    if not isinstance(answer, dict):
        raise ConnectionError(f"{address} is no worker.")
    return answer


def lost_worker(error: Exception) -> str | None:
    """Say in one line that another worker is gone.

    Args:
        error: Error of a step that several workers share.

    Returns:
        The line; None for an error of another kind.
    """
    if type(error).__name__ not in ("UnavailableError", "AbortedError"):
        return None
    # Not where the operation was placed, `/job:worker/replica:0/task:0/device:CPU:0`: that is here.
    found = re.search(r"/job:worker/(?:replica:0/)?task:(\d+)\b(?!/device)", str(error))
    who = f"Worker {found[1]}" if found else "Another worker"
    return f"{who} is gone. The same command, for all workers, goes on after the last checkpoint."


@contextmanager
def _answering(register: Register, index: int) -> Iterator[None]:
    """Hold the port of a worker, and answer whoever asks there."""
    address = register.workers[index]
    try:
        server = _server(int(address.rpartition(":")[2]), register.answer)
    except OSError as error:
        raise OSError(
            f"The port of {name_of(index, register.workers)} is in use: by a second worker {index} "
            f"or by another program ({error.strerror})."
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _server(port: int, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Make a server on all addresses of this machine."""

    class Handler(socketserver.StreamRequestHandler):
        timeout = CONNECT

        def handle(self) -> None:
            try:
                reply = answer(json.loads(self.rfile.readline(LONGEST)))
                self.wfile.write(json.dumps(reply).encode() + b"\n")
            except (OSError, ValueError, LookupError, TypeError):
                # Whoever else connects, such as a check of the port, is not answered.
                return

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        allow_reuse_address = True
        daemon_threads = True

        def server_bind(self) -> None:
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    return Server(("", port), Handler)
