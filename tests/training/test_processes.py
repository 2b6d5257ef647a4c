"""A process ends with the command that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from training import processes

STARTER = """
import sys
from training import processes
child = processes.start(["timeit", "-n", "1", "-r", "1", "import time; time.sleep(300)"])
print(child.pid, flush=True)
child.wait()
"""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Killed, and not waited for by whoever has adopted it.
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_process_ends_when_its_starter_is_killed():
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True
    ) as starter:
        child = int(starter.stdout.readline())
        assert _exists(child)
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    for _ in range(600):
        if not _exists(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("The process outlived its starter.")


def test_runs_to_the_end_and_keeps_the_log(tmp_path):
    log = tmp_path / "log.txt"
    for text in ("one", "two"):
        assert processes.run(["timeit", "-n1", "-r1", f"print('{text}')"], log) == 0
    assert [line for line in log.read_text().splitlines() if line in ("one", "two")] == [
        "one",
        "two",
    ]
    assert processes.run(["timeit", "-n1", "-r1", "import os; os._exit(3)"], log) == 3
    killed = ["timeit", "-n1", "-r1", "import os; os.kill(os.getpid(), 9)"]
    assert processes.run(killed, log) == -signal.SIGKILL
    assert processes.last_lines(log, 1).startswith("1 loop")


def test_threads_are_set_in_the_environment(tmp_path):
    log = tmp_path / "log.txt"
    code = "import os; print('threads', os.environ.get('TF_NUM_INTRAOP_THREADS'))"
    processes.run(["timeit", "-n1", "-r1", code], log, threads=3)
    assert "threads 3\n" in log.read_text()
