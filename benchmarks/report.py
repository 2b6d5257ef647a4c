"""Reports of the benchmarks: the machine, the command, a table."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from training.cores import usable_cores

# Instruction sets of x86 and ARM that decide which kernels a processor gets, the newest first.
_INSTRUCTION_SETS = (
    "amx_bf16",
    "avx512_bf16",
    "avx512_vnni",
    "avx512f",
    "avx2",
    "avx",
    "sve",
    "asimd",
)
RESULTS = Path(__file__).parent / "results"


def _facts() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing elsewhere."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _instruction_set(facts: dict[str, str]) -> str:
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return next((each for each in _INSTRUCTION_SETS if each in flags), "")


def device_name() -> str:
    """Return the processor's name, generation, instruction set, and number of usable cores."""
    facts = _facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    # Virtual machines often give the name of a whole family, whose members differ twofold.
    generation = [
        f"family {facts['cpu family']}" if "cpu family" in facts else "",
        f"model {facts['model']}" if "model" in facts else "",
        _instruction_set(facts),
    ]
    known = ", ".join(filter(None, generation))
    cores = f"{usable_cores()} cores"
    return f"{name} ({known}), {cores}" if known else f"{name}, {cores}"


def processor_folder() -> Path:
    """Return the folder of results that is named by this processor.

    Returns:
        A path such as `benchmarks/results/amd-25-17-avx512_bf16`: the vendor, family, model and
        newest instruction set.
    """
    facts = _facts()
    vendor = facts.get("vendor_id", platform.machine()).lower()
    vendor = vendor.removeprefix("authentic").removeprefix("genuine")
    parts = (vendor, facts.get("cpu family"), facts.get("model"), _instruction_set(facts))
    return RESULTS / "-".join(filter(None, parts))


def command_line(module: str) -> str:
    """Return the command that runs this process, with oneDNN's switch where it is off."""
    off = os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0"
    command = f"python -m {module} {shlex.join(sys.argv[1:])}".strip()
    return f"TF_ENABLE_ONEDNN_OPTS=0 {command}" if off else command


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table whose columns line up."""
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
    """Return a result as Markdown: title, how and on which machine it was measured, the body.

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
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_name(output.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
