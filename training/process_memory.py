"""Memory of processes, as Linux tells it. No library is imported that would add to it."""

from __future__ import annotations

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
