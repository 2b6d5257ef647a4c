"""Reports of the benchmarks: the machine, the command, a table."""

from __future__ import annotations

import platform
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


class Report:
    """Result as Markdown: how and on which machine it was measured, above the body.

    It is made before anything is measured, so that a package or a folder that is missing is not
    missed hours later.

    Args:
        title: The heading.
        command: The command line.
        packages: Distributions whose versions decide the result.
        output: File that it is written to beside being printed; its folder is made.

    Raises:
        PackageNotFoundError: If a package is not installed.
        OSError: If the folder cannot be made.
    """

    def __init__(
        self, title: str, command: str, packages: Sequence[str], output: Path | None = None
    ) -> None:
        self._title = title
        self._command = command
        self._versions = ", ".join(f"{package} {version(package)}" for package in packages)
        self._processor = device_name()
        self._output = output
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)

    def write(self, body: str, device: str | None = None) -> None:
        """Write the result to the file, if one was given, and print it.

        Args:
            body: All below the heading and its list.
            device: By default the processor.
        """
        text = (
            f"# {self._title}\n\n"
            f"- Command: `{self._command}`\n"
            f"- Device: {device or self._processor}\n"
            f"- Versions: {self._versions}\n"
            f"- Date: {date.today().isoformat()}\n\n"
            f"{body}\n"
        )
        if self._output:
            partial = self._output.with_name(self._output.name + ".partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._output)
        # Whoever reads it may have gone.
        print(text)
