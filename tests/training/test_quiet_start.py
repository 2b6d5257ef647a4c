"""Commands drop the lines of TensorFlow's start, and nothing else."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.paths import ROOT

# Lines of TensorFlow's start, and others.
NO_DRIVER = (
    "E0000 00:00:1795960306.456386   20347 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    "CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)\n"
)
START = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795957584.748082    7792 port.cc:153] oneDNN custom operations are on.\n"
) + NO_DRIVER
OTHER = NO_DRIVER.replace("303", "999") + (
    "E0000 00:00:1795957584.748082    7792 port.cc:153] no kernel\n"
)


def run(*command: str, path: Path = ROOT, backend: str = "tensorflow"):
    """Run Python as a user would, in whose environment no level of TensorFlow's log is set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    environment |= {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "KERAS_BACKEND": backend}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module", autouse=True)
def fonts():
    """Let matplotlib look for the fonts of this machine, which it says if it takes long."""
    importlib.import_module("matplotlib.font_manager")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("training.samples", ("--data", "digits", "--count", "1")),
        ("keras_preact.show", ("--set", "units=[1,1,1]", "PreActResNet20", "--input-size", "8")),
    ],
)
def test_commands_print_nothing_to_standard_error(module, arguments, tmp_path):
    done = run("-m", module, *arguments, "--output", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def tensorflow(folder: Path, code: str) -> Path:
    """Return a package named as TensorFlow that runs some code when it is imported."""
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(f"import os, sys\n{code}")
    return folder


# The call that looks for devices.
DEVICES = "class config: list_physical_devices = lambda: os.write(2, b'devices\\n')\n"
WRITE = f"os.write(2, {START + OTHER!r}.encode())\n"
IMPORT = (
    "import os, training, tensorflow\n"
    f"os.write(2, {START!r}.encode())\n"
    "print('imported', tensorflow.done, flush=True)"
)


def test_known_lines_are_dropped_from_the_start_and_from_nothing_else(tmp_path):
    """As are those of C++, which write to the file descriptor."""
    folder = tensorflow(
        tmp_path, WRITE + DEVICES + "print('printed', file=sys.stderr)\ndone = True"
    )
    done = run("-c", IMPORT, path=folder)
    assert done.stderr == OTHER + "printed\ndevices\n" + START
    assert done.stdout == "imported True\n"


def test_a_start_that_fails_says_why(tmp_path):
    """An exception, and a process that is ended by TensorFlow, which leaves no time."""
    folder = tensorflow(tmp_path, WRITE + "raise ImportError('no libcuda')")
    done = run("-c", IMPORT, path=folder)
    assert done.returncode == 1
    assert done.stderr.startswith(OTHER)
    assert done.stderr.endswith("ImportError: no libcuda\n")
    (folder / "tensorflow" / "__init__.py").write_text(
        f"import os\nos.write(2, {START + 'The library needs AVX'!r}.encode())\nos.abort()"
    )
    done = run("-c", IMPORT, path=folder)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == "The library needs AVX"


def test_the_library_hides_nothing_and_other_backends_need_no_tensorflow():
    code = (
        "import sys, keras_preact\n"
        "assert 'TensorFlowFinder' not in str(sys.meta_path)\n"
        "import training.train\n"
        "assert 'TensorFlowFinder' in str(sys.meta_path)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = run("-c", code, backend="jax")
    assert done.returncode == 0, done.stderr
