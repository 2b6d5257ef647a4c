"""Benchmarks measure what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from training.cores import usable_cores

ROOT = Path(__file__).parents[1]
# Their processes begin with the import of the module, and some of them run a peer.
MEASURED = ("depth", "flat_nets", "gpu_step", "inference", "profile_inference", "serving")
FRAMEWORKS = {"jax", "keras", "keras_preact", "tensorflow", "torch"}


def test_processes_that_are_measured_begin_without_a_framework():
    """Else a peer's memory holds Keras, and Keras is imported before the clock starts."""
    imports = ", ".join(f"benchmarks.{name}" for name in MEASURED)
    code = f"import sys, {imports}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {"benchmarks.workers", "savedmodels.runtimes", "training.process_memory"} <= found
    assert not FRAMEWORKS & found


def test_cores_are_counted_where_the_system_tells_none_of_this_process(monkeypatch):
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
