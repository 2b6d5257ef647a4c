"""The test suites: `python tests/suites.py [NAME ...]`, without a name all of them.

Keras takes one backend per process, so each suite is a run of pytest of its own. The others run one
after the other beside the first, so that no core idles where one waits; more at a time would take
too much memory. The first one prints as it goes, the others after it. A suite that fails does not
end the others. The last line says what passed where.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
OPTIONS = ("--durations=10",)
ALL_CORES = ("--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal")
# Numbers are held against bounds for a CPU, and processes side by side share the memory of no GPU.
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# Those that mark a test, so that a run of the mark need not import the others.
NUMERICAL = tuple(
    sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.numerical" in path.read_text()
    )
)
ON_ANY_BACKEND = (
    "tests/test_backends.py",
    "tests/analysis/test_composed_models.py",
    "tests/analysis/test_effective_depth.py",
    "tests/analysis/test_gradient_flow.py::test_gradients_of_a_linear_net_are_powers",
    "tests/analysis/test_loss_landscape.py::test_sharpness_of_weights_of_another_kind",
    "tests/training/engines/test_accumulation.py",
)


@dataclass(frozen=True)
class Suite:
    """One run of pytest.

    Attributes:
        title: Name of the suite in the last line.
        arguments: Command-line arguments of pytest, beside `OPTIONS`.
        variables: Environment variables that it sets, beside `NO_GPU`.
    """

    title: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


SUITES = {
    "tensorflow": Suite("tensorflow", ALL_CORES, {"KERAS_BACKEND": "tensorflow"}),
    # Other processors' numbers: oneDNN has kernels for some instruction sets only.
    "onednn-off": Suite(
        "oneDNN off",
        ("-m", "numerical and not slow", *NUMERICAL),
        {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "0"},
    ),
    "jax": Suite(
        "jax",
        (*ON_ANY_BACKEND, "tests/training/test_evaluate.py::test_counts_by_hand"),
        {
            "KERAS_BACKEND": "jax",
            "JAX_COMPILATION_CACHE_DIR": str(CACHE / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    ),
    "torch": Suite("torch", ON_ANY_BACKEND, {"KERAS_BACKEND": "torch"}),
}


@dataclass(frozen=True)
class Result:
    """The outcome of a suite.

    Attributes:
        status: Exit status of pytest.
        line: Its part of the last line.
        printed: Its output, if it was kept.
    """

    status: int
    line: str
    printed: str


def run_all(suites: Iterable[Suite], reports: Path = CACHE / "tests") -> int:
    """Run the suites, two at a time, and print the line that sums them up.

    Args:
        suites: The suites, in the order in which they are reported.
        reports: Folder for pytest's reports in JUnit's format.

    Returns:
        The exit status: 0 if every suite passed, else 1.
    """
    first, *others = suites
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(run, first, reports)]
        running += [pool.submit(run, suite, reports, stdout=subprocess.PIPE) for suite in others]
    results = [each.result() for each in running]
    print("\n".join(result.printed for result in results))
    print("; ".join(result.line for result in results))
    return int(any(result.status for result in results))


def run(suite: Suite, reports: Path, stdout: int | None = None) -> Result:
    """Run a suite.

    Args:
        suite: The suite.
        reports: Folder for its report.
        stdout: Where its output goes, as in `subprocess.run`; by default to the terminal.
    """
    report = reports / f"{suite.title}.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, f"--junit-xml={report}", *suite.arguments],
        cwd=ROOT,
        env={**os.environ, **NO_GPU, **suite.variables},
        stdout=stdout,
        stderr=stdout and subprocess.STDOUT,
        text=True,
    )
    seconds = time.monotonic() - start
    line = f"{suite.title} {outcome(report, done.returncode)} in {seconds:.0f} s"
    return Result(done.returncode, line, f"\n{suite.title}:\n{done.stdout}" if stdout else "")


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
