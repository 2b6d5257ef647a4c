"""Memory of processes. No library is imported that would add to it."""

from __future__ import annotations

import sys
from pathlib import Path

PROCESSES = Path("/proc")
RESIDENT, PEAK = "VmRSS", "VmHWM"


def process_bytes(size: str, process: int | str = "self") -> int:
    """Return a size of a process, in bytes.

    Args:
        size: `RESIDENT`, what it holds of the machine's memory now; or `PEAK`, the most it held.
        process: Its number; this one by default.

    Raises:
        OSError: If there is no such process, or no Linux to ask.
    """
    for line in (PROCESSES / str(process) / "status").read_text().splitlines():
        if line.startswith(f"{size}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the process {process} has ended")


def peak_bytes() -> int:
    """Return the peak memory of this process, or of its arrays on the GPU if it used one."""
    torch, jax, tf = (sys.modules.get(name) for name in ("torch", "jax", "tensorflow"))
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if jax:
        # A CPU counts none.
        if statistics := jax.local_devices()[0].memory_stats():
            return statistics["peak_bytes_in_use"]
    if tf and not jax and tf.config.get_visible_devices("GPU"):
        gpus = tf.config.list_logical_devices("GPU")
        name = gpus[0].name.removeprefix("/device:")
        return tf.config.experimental.get_memory_info(name)["peak"]
    try:
        return process_bytes(PEAK)
    except OSError:
        # Windows has no such module.
        import resource

        # That of a process which Linux copied from another may be the other's.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
