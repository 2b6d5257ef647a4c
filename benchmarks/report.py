"""Reports of benchmarks: the machine, the command, a table."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path


def device_name() -> str:
    """Return the processor's name and generation, and the number of cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): value.strip() for name, value in pairs}
    name = facts.get("model name") or platform.processor() or platform.machine()
    # Virtual machines often give the name of a whole family, whose members differ twofold.
    generation = f" (family {facts['cpu family']})" if "cpu family" in facts else ""
    return f"{name}{generation}, {len(os.sched_getaffinity(0))} cores"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a Markdown table whose columns line up."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def report(
    title: str, command: str, packages: Sequence[str], body: str, device: str | None = None
) -> str:
    """Format a result as Markdown: title, command and machine, body.

    The device is the processor where none is named.
    """
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"# {title}\n\n"
        f"- Command: `{command}`\n"
        f"- Device: {device or device_name()}\n"
        f"- Versions: {versions}\n"
        f"- Date: {date.today().isoformat()}\n\n"
        f"{body}\n"
    )


def write(text: str, output: Path | None) -> None:
    """Print a result, and write it to a file if one is given."""
    print(text)
    if output:
        partial = output.with_name(output.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
