"""Runs candidates side by side: each in a process of its own, measured in turn.

A process of its own keeps one candidate's memory and settings out of the other's; taking turns
spreads whatever else the machine does over all of them.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from training.process_memory import peak_bytes

Step = Callable[[], Any]
# A function that prepares the work and returns the step to be timed, and its arguments.
Candidate = tuple[Callable[..., Step], tuple[Any, ...]]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass
class Measured:
    """Measurements of one candidate.

    Attributes:
        first_step_s: Seconds from the start of building to the end of the first step.
        step_s: Seconds of each round, divided by its steps.
        cpu_s: Processor seconds of each round, on all cores, divided by its steps. They depend
            less on what else the machine does.
        peak_bytes: Result of `training.process_memory.peak_bytes` at the end.
    """

    first_step_s: float = 0.0
    step_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def best_s(self) -> float:
        """Seconds of a step in the fastest round."""
        return min(self.step_s)


def in_a_new_process(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call a function of a module in a process that has done nothing else.

    Args:
        function: The function.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        Its result.

    Raises:
        BrokenProcessPool: If the process is killed, perhaps for want of memory.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def measure_in_turn(
    candidates: dict[str, Candidate], rounds: int, steps: int
) -> dict[str, Measured]:
    """Measure candidates in turn.

    Args:
        candidates: By name, a function of a module that prepares the work and returns the step to
            be timed, and its arguments. It runs in a new process, so that it can set what a
            library reads when it is imported.
        rounds: Turns of each candidate.
        steps: Steps a turn.

    Returns:
        The measurements of each candidate, by name.
    """
    context = multiprocessing.get_context("spawn")
    workers = {}
    results = {name: Measured() for name in candidates}
    for name, (prepare, arguments) in candidates.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, prepare, arguments), daemon=True)
        process.start()
        theirs.close()
        workers[name] = (process, ours)
        results[name].first_step_s = ours.recv()
        print(f"{name}: first step after {results[name].first_step_s:.1f} s", flush=True)
    for turn in range(rounds):
        for name, (_, connection) in workers.items():
            connection.send(steps)
            seconds, cpu_seconds = connection.recv()
            results[name].step_s.append(seconds / steps)
            results[name].cpu_s.append(cpu_seconds / steps)
        print(f"round {turn + 1} of {rounds}", flush=True)
    for name, (process, connection) in workers.items():
        connection.send(0)
        results[name].peak_bytes = connection.recv()
        process.join()
    return results


def seconds_of_call(function: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> float:
    """Return the seconds per call of several calls in a row, in this process."""
    start = time.perf_counter()
    for _ in range(calls):
        function(*arguments)
    return (time.perf_counter() - start) / calls


def training_step(forward: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Trace a function of maps and a kernel with both gradients as one TensorFlow graph.

    It takes the maps, the kernel, and the gradient of the outputs.
    """
    import tensorflow as tf

    @tf.function(autograph=False)
    def step(maps: Any, kernel: Any, upstream: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([maps, kernel])
            outputs = forward(maps, kernel)
        return tape.gradient(outputs, [maps, kernel], upstream)

    return step


def milliseconds_in_turn(
    functions: list[Callable[..., Any]], arguments: tuple[Any, ...], rounds: int, calls: int
) -> list[float]:
    """Return milliseconds per call of each function, in the fastest round of taking turns."""
    for function in functions:
        seconds_of_call(function, arguments, 2)
    times = [
        [seconds_of_call(function, arguments, calls) for function in functions]
        for _ in range(rounds)
    ]
    return [1e3 * min(each) for each in zip(*times, strict=True)]


def _work(connection: Connection, prepare: Callable[..., Step], arguments: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    step = prepare(*arguments)
    step()
    connection.send(time.perf_counter() - start)
    while steps := connection.recv():
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        connection.send((time.perf_counter() - start, time.process_time() - cpu_start))
    connection.send(peak_bytes())
