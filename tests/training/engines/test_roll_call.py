"""Workers that wait for one another say who is missing, and can be stopped."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.training.paths import ROOT
from training.engines import roll_call
from training.engines.devices import read_workers
from training.launch import free_ports

# A worker that imports neither Keras nor TensorFlow, as fast as the one that imports both.
# Ctrl-C reaches it although the tests may run in the background, where shells have it ignored.
WORKER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from training import processes
from training.engines import roll_call
# Who is missing is said whenever that changes.
processes._BETWEEN = 0.0
workers, index, minutes, roll_call.SILENT = json.loads(sys.argv[1])
try:
    roll_call.call_roll(workers, index, minutes)
except (processes.Preempted, ValueError, OSError) as error:
    print(type(error).__name__, error)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
else:
    print("all are there")
"""
LONG = 5.0


def start(
    workers: list[str], index: int, minutes: float = LONG, silent: float = 0.3
) -> subprocess.Popen:
    """Start a worker that calls the roll, and is silent on who is missing for so many seconds."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", WORKER, json.dumps([workers, index, minutes, silent])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen) -> list[str]:
    """Wait for a worker to end, and return what it said."""
    return process.communicate(timeout=60)[0].splitlines()


@pytest.fixture
def workers():
    return [f"localhost:{port}" for port in free_ports(3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_once_all_are_there(workers, order):
    # However long it takes until the last one is there.
    processes = [start(workers, index, silent=60 * LONG) for index in order]
    # What else comes to the port of a worker is not counted.
    host, port = workers[0].split(":")
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"workers": 3}\n', b"\xff\n", b""):
        for _ in range(100):
            try:
                with socket.create_connection((host, int(port)), 1) as stranger:
                    stranger.sendall(noise)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    assert [told(each) for each in processes] == [["all are there"]] * 3


def test_who_is_missing_is_said_by_all_and_after_the_time_limit_all_end(workers):
    other = start(workers, 1)
    line = f"Waiting for worker 0, the chief, at {workers[0]} (0 of 5 minutes).\n"
    assert other.stdout.readline() == line
    # The other one asks several times in the second that the chief is silent.
    chief = start(workers, 0, minutes=0.06, silent=1.0)
    waited = f"TimeoutError Waited 0.06 minutes for worker 2 at {workers[2]}. Start it, "
    missing = f"Waiting for worker 2 at {workers[2]} (0 of"
    for process, minutes in ((chief, "0.06"), (other, "5")):
        # The chief's port may answer the other one before it has counted itself.
        *_, line, end = told(process)
        assert line == f"{missing} {minutes} minutes)."
        assert end.startswith(waited)
        assert "--wait-minutes" in end


@pytest.mark.parametrize(
    ("number", "index", "missing", "end"),
    [
        (signal.SIGTERM, 0, (1, 2), "Preempted Stopped as asked, before all workers were there."),
        (signal.SIGTERM, 2, (0,), "Preempted Stopped as asked, before all workers were there."),
        (signal.SIGINT, 1, (0,), "KeyboardInterrupt"),
    ],
)
def test_a_worker_that_waits_can_be_stopped(workers, number, index, missing, end):
    process = start(workers, index)
    line = process.stdout.readline()
    for each in range(3):
        assert (workers[each] in line) == (each in missing)
    process.send_signal(number)
    assert told(process) == [end]


def test_a_second_worker_at_one_address_is_refused(workers):
    first = start(workers, 1)
    while socket.socket().connect_ex(("localhost", int(workers[1].split(":")[1]))):
        time.sleep(0.05)
    (line,) = told(start(workers, 1))
    assert line.startswith(f"OSError The port of worker 1 at {workers[1]} is in use")
    first.send_signal(signal.SIGTERM)
    told(first)


def ask(register: roll_call.Register, index: int, process: str) -> dict:
    return register.answer({"workers": register.workers, "index": index, "process": process})


def test_the_chief_refuses_a_place_that_is_taken_and_other_addresses(workers, monkeypatch):
    register = roll_call.Register(workers)
    assert ask(register, 0, "chief") == {"missing": [1, 2]}
    assert ask(register, 1, "one") == {"missing": [2]}
    twice = ask(register, 1, "another")["refusal"]
    assert twice.startswith(f"worker 1 at {workers[1]} is there twice")
    # A second chief on another machine asks the first one, and hears the same.
    assert "the chief, at" in ask(register, 0, "another")["refusal"]
    question = {"workers": workers[:2], "index": 1, "process": "one"}
    assert workers[2] in register.answer(question)["refusal"]
    # One that was not heard of for long is missing, and another may take its place.
    monkeypatch.setattr(roll_call, "GONE", 0.0)
    assert ask(register, 2, "two") == {"missing": [0, 1, 2]}
    assert ask(register, 1, "another") == {"missing": [0, 1, 2]}
    monkeypatch.undo()
    assert ask(register, 0, "chief") == {"missing": []}
    assert register.untold() == [1, 2]
    assert ask(register, 2, "two") == {"missing": []}
    assert register.untold() == [1]


def test_a_chief_on_another_machine_hears_that_there_is_one(workers):
    register = roll_call.Register(workers)
    server = roll_call._server(int(workers[0].split(":")[1]), register.answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ask(register, 0, "chief")
    question = {"workers": workers, "index": 0, "process": "another"}
    with pytest.raises(ValueError, match="there twice"):
        roll_call._chief_looks(roll_call.Register(workers), question)
    server.shutdown()
    server.server_close()


def test_of_many_missing_workers_some_are_named():
    workers = [f"host{index}:2222" for index in range(32)]
    assert roll_call.names_of([], workers) == ""
    assert (
        roll_call.names_of([3, 5], workers) == "worker 3 at host3:2222 and worker 5 at host5:2222"
    )
    named = roll_call.names_of(range(32), workers)
    assert named.endswith("worker 3 at host3:2222 and 28 more of 32 workers")


_TASK = "/job:worker/replica:0/task:"
_LOST = (
    "Collective ops is aborted by: recvmsg:Connection reset by peer\nfrom remote target " + _TASK
)


@pytest.mark.parametrize(
    ("message", "who"),
    [
        # Within an epoch.
        (f"{_LOST}1 while calling", "Worker 1"),
        # At its end, where an operation asks the others that says its place: on worker 0, 2 and 0.
        (f"{{{{function_node device_{_TASK}0/device:CPU:0}}}} {_LOST}1 while calling", "Worker 1"),
        (f"{{{{function_node device_{_TASK}2/device:CPU:0}}}} {_LOST}0 … {_LOST}1 …", "Worker 0"),
        (
            f"{{{{function_node device_{_TASK}0/device:CPU:0}}}} Collective ops is aborted by: "
            f"Error reported from /job:worker/task:12: … unhealthy …:\n{_TASK}12",
            "Worker 12",
        ),
        ("Socket closed", "Another worker"),
    ],
)
def test_who_is_gone_is_told_from_where_an_operation_was(message, who):
    error = type("UnavailableError", (Exception,), {})(message)
    assert roll_call.lost_worker(error).startswith(f"{who} is gone. The same command, ")
    assert roll_call.lost_worker(ValueError(message)) is None


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["a:1", "b:1", "a:1"], "workers 0 and 2 have one address, a:1"),
        (["a:1", "b"], "worker 1 must have an address as host1:2222"),
        (["a:1", 5], "expected string"),
    ],
)
def test_addresses_that_cannot_be_are_refused_at_once(addresses, message):
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    with pytest.raises(ValueError, match=message):
        read_workers(json.dumps(config))
