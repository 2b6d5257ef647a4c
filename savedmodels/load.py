"""Load test of a server: many requests at a time, with their latency and throughput.

Example: `python -m savedmodels.load localhost:8500 digits photo.jpg --requests 1000`
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from savedmodels.client import GrpcClient, RequestFailed, RestClient, add_client_arguments, connect
from savedmodels.memory import resident_bytes

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass
class Load:
    """Results of a run of requests.

    Attributes:
        seconds: From the first request to the last answer.
        latencies_s: Seconds from request to answer, of each request that was answered.
        failures: How often requests failed, by reason.
        resident_bytes: Resident memory of the server, before the first request and after each.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    resident_bytes: list[int] = field(default_factory=list)

    def report(self, images_per_request: int) -> dict[str, Any]:
        """Return the results as JSON values; latencies in milliseconds, memory in megabytes."""
        numbers: dict[str, Any] = {
            "answered": len(self.latencies_s),
            "failed": dict(self.failures),
            "seconds": round(self.seconds, 3),
        }
        if self.latencies_s:
            rate = len(self.latencies_s) / self.seconds
            numbers["requests_per_s"] = round(rate, 2)
            numbers["images_per_s"] = round(rate * images_per_request, 2)
            values = np.percentile(np.array(self.latencies_s) * 1000, PERCENTILES)
            for percentile, value in zip(PERCENTILES, values, strict=True):
                numbers["max_ms" if percentile == 100 else f"p{percentile}_ms"] = round(value, 2)
        if memory := [size / 1e6 for size in self.resident_bytes]:
            stages = {"before": memory[0], "after": memory[-1], "highest": max(memory)}
            numbers["server_memory_mb"] = {name: round(size, 1) for name, size in stages.items()}
        return numbers


def run_load(
    client: GrpcClient | RestClient,
    files: Sequence[bytes],
    requests: int,
    concurrency: int,
    server_process: int | None = None,
) -> Load:
    """Send requests, a number of them in flight at any time.

    Args:
        client: Client of the server.
        files: Image files; each request classifies all of them.
        requests: Number of requests.
        concurrency: Requests in flight.
        server_process: Number of the server's process on this machine, whose memory is measured.

    Returns:
        The results.

    Raises:
        OSError: If there is no such process, or no Linux to ask.
    """
    load, lock = Load(), threading.Lock()

    def note_memory() -> None:
        if server_process is not None:
            load.resident_bytes.append(resident_bytes(server_process))

    def send(_: int) -> None:
        start = time.perf_counter()
        try:
            answers = client.classify(files)
            failed = next((each["error"] for each in answers if "error" in each), None)
        except RequestFailed as error:
            failed = str(error)
        latency = time.perf_counter() - start
        with lock:
            if failed:
                load.failures[failed] += 1
            else:
                load.latencies_s.append(latency)
            note_memory()

    note_memory()
    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        for _ in pool.map(send, range(requests)):
            pass
    load.seconds = time.perf_counter() - start
    return load


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 1 if a request failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.load",
        description="Send requests of all the images, several at a time, and print as JSON how "
        "many were answered and how fast.",
        allow_abbrev=False,
    )
    add_client_arguments(parser)
    parser.add_argument("--requests", type=int, default=1000, metavar="N")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="in flight")
    parser.add_argument("--warm-up", type=int, default=10, metavar="N", help="not counted")
    parser.add_argument(
        "--server-process",
        type=int,
        metavar="PID",
        help="number of the server's process on this machine: its memory is printed too",
    )
    options = parser.parse_args(argv)
    if min(options.requests, options.concurrency) < 1 or options.warm_up < 0:
        parser.error("--requests and --concurrency must be 1 or more, --warm-up 0 or more")
    client = connect(options.target, options.model, options.version, options.timeout)
    try:
        files = [image.read_bytes() for image in options.images]
    except OSError as error:
        print(f"savedmodels.load: {error}", file=sys.stderr)
        return 1
    if options.warm_up:
        run_load(client, files, options.warm_up, options.concurrency)
    try:
        load = run_load(
            client, files, options.requests, options.concurrency, options.server_process
        )
    except OSError as error:
        print(f"savedmodels.load: no memory of {options.server_process}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(load.report(len(files)), indent=2))
    return 1 if load.failures else 0


if __name__ == "__main__":
    sys.exit(main())
