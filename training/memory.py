"""Memory that a process may take and holds, of the machine or of the device it computes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import keras

from training.process_memory import RESIDENT, process_bytes

GIB = 2**30
# Larger limits of a control group mean none.
_NO_LIMIT = 2**60


def resident_bytes(process: int | str = "self") -> int:
    """Return the memory of the machine that a process holds now; 0 where that cannot be read."""
    try:
        return process_bytes(RESIDENT, process)
    except OSError:
        return 0


def device_bytes() -> int | None:
    """Return the memory of the accelerator that the backend computes on, in all or still free.

    Returns:
        The bytes, of the smallest of several; None for a CPU, which has the machine's memory.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    if backend == "jax":
        import jax

        limits = [each.memory_stats() for each in jax.local_devices()]
        return min((each["bytes_limit"] for each in limits if each), default=None)
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return None
    from tensorflow.python.client import device_lib

    limits = [each.memory_limit for each in device_lib.list_local_devices("GPU")]
    return min((each for each in limits if each), default=None)


def free_bytes(root: Path = Path("/")) -> int:
    """Return the memory that this machine, or the control group of this process, has left.

    Args:
        root: Folder with `proc` and `sys`.

    Returns:
        The bytes that can be taken without swapping.
    """
    return min(_of_machine(root), *_of_groups(root))


def _of_machine(root: Path) -> int:
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", (root / "proc/meminfo").read_text())
    except OSError:
        found = None
    # Other systems do not say what is free.
    return (
        int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    )


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what is left to each control group that this process is in, of version 1 or 2."""
    yield _NO_LIMIT
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = Path(path.strip("/"))
        for each in (group, *group.parents):
            yield _left(base / each, *names)


def _left(folder: Path, limit: str, used: str) -> int:
    try:
        most, now = ((folder / name).read_text().strip() for name in (limit, used))
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
    except (OSError, ValueError):
        return _NO_LIMIT
    if most == "max" or int(most) > _NO_LIMIT:
        return _NO_LIMIT
    # The kernel gives up cached files before it refuses memory.
    cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    return int(most) - int(now) + cached
