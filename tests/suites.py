"""The test suites: `python tests/suites.py [NAME ...]`, without a name all of them.

Keras takes one backend per process, so each suite is a run of pytest of its own. A suite that fails
does not keep the next one from running. The last line says what passed where.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
OPTIONS = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal", "--durations=10")
ON_ANY_BACKEND = (
    "tests/test_backends.py",
    "tests/analysis/test_effective_depth.py",
    "tests/analysis/test_gradient_flow.py::test_gradients_of_a_linear_net_are_powers",
)


@dataclass(frozen=True)
class Suite:
    """One run of pytest.

    Attributes:
        title: Name of the suite in the last line.
        arguments: Command-line arguments of pytest, beside `OPTIONS`.
        variables: Environment variables that it sets.
    """

    title: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


SUITES = {
    "tensorflow": Suite("tensorflow", (), {"KERAS_BACKEND": "tensorflow"}),
    # Other processors' numbers: oneDNN has kernels for some instruction sets only.
    "onednn-off": Suite(
        "oneDNN off",
        ("-m", "numerical and not slow"),
        {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "0"},
    ),
    "jax": Suite(
        "jax",
        ON_ANY_BACKEND,
        {
            "KERAS_BACKEND": "jax",
            "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    ),
    "torch": Suite("torch", ON_ANY_BACKEND, {"KERAS_BACKEND": "torch"}),
}


def run_all(suites: Iterable[Suite], reports: Path = CACHE / "tests") -> int:
    """Run every suite and print the line that sums them up.

    Args:
        suites: The suites, in the order in which they run.
        reports: Folder for pytest's reports in JUnit's format.

    Returns:
        The exit status: 0 if every suite passed, else 1.
    """
    lines, statuses = [], []
    for suite in suites:
        report = reports / f"{suite.title}.xml"
        report.unlink(missing_ok=True)
        print(f"\n{suite.title}: pytest {' '.join(suite.arguments)}", flush=True)
        start = time.monotonic()
        status = subprocess.run(
            [sys.executable, "-m", "pytest", *OPTIONS, f"--junit-xml={report}", *suite.arguments],
            cwd=ROOT,
            env={**os.environ, **suite.variables},
        ).returncode
        seconds = time.monotonic() - start
        lines.append(f"{suite.title} {outcome(report, status)} in {seconds:.0f} s")
        statuses.append(status)
    print("\n" + "; ".join(lines))
    return int(any(statuses))


def outcome(report: Path, status: int) -> str:
    """Return how many tests failed, passed and were skipped.

    Args:
        report: File that pytest wrote, or did not write if it stopped early.
        status: Exit status of pytest.
    """
    if not report.exists():
        return f"stopped with status {status}"
    totals = ElementTree.parse(report).getroot()[0].attrib
    failed, errors, skipped = (int(totals[key]) for key in ("failures", "errors", "skipped"))
    passed = int(totals["tests"]) - failed - errors - skipped
    counts = {"failed": failed, "errors": errors, "passed": passed, "skipped": skipped}
    return ", ".join(f"{n:,} {word}" for word, n in counts.items() if n) or "no test ran"


def main() -> int:
    """Run the suites that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", type=_suite, metavar="NAME", help=", ".join(SUITES))
    return run_all(parser.parse_args().suites or SUITES.values())


def _suite(name: str) -> Suite:
    if name not in SUITES:
        raise argparse.ArgumentTypeError(f"{name!r} is no suite. Suites: {', '.join(SUITES)}")
    return SUITES[name]


if __name__ == "__main__":
    sys.exit(main())
