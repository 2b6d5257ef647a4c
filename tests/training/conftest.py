"""Training runs that take seconds."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import pytest
from keras.src.utils.naming import reset_uids

from training import processes

TINY = """
model = "PreActResNet20"
epochs = 3
batch_size = 128
reference_batch_size = 128
learning_rate = 0.1
schedule = "one_cycle"
warmup_epochs = 1
nesterov = true
ema_momentum = 0.9
label_smoothing = 0.1
input_size = 8
channels = 1
mean = [0.305]
std = [0.376]
crop_fraction = 1.0
crop = "pad"
pad = 1
flip = false

[model_options]
units = [1, 1]
channels = [8, 16]
strides = [1, 2]
dropout = 0.1
drop_path = 0.2
"""


@dataclass(frozen=True)
class Finished:
    """A finished run that several tests read; a test that changes one takes a copy.

    Attributes:
        folder: The folder of the run.
        options: The options that the run was started with, beside those of `train`.
        printed: The lines on standard output.
    """

    folder: Path
    options: tuple[str, ...]
    printed: str

    def copy(self, folder: Path) -> Path:
        """Copy the run."""
        return shutil.copytree(self.folder, folder)


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a recipe with all that a resumed run must restore: dropout, drop path, averages."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def train(tiny_recipe: Path) -> Callable[..., int]:
    """Return a function that runs the training command on the digits with the tiny recipe."""
    from training.train import main

    def run(output: Path, *options: str) -> int:
        required = ["--recipe", str(tiny_recipe), "--data", "digits", "--output", str(output)]
        return main([*required, *options])

    return run


@pytest.fixture(scope="session")
def finished(train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a finished run of the tiny recipe."""
    folder, options = (
        tmp_path_factory.mktemp("finished") / "run",
        # The digits are in no folder of sets: it is only recorded.
        ("--seed", "7", "--save-every", "3", "--data-dir", "sets"),
    )
    keras.backend.clear_session(free_memory=False)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert train(folder, *options) == 0
    keras.backend.clear_session(free_memory=False)
    return Finished(folder, options, printed.getvalue())


@pytest.fixture
def forked_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands that a command starts begin with all that they import."""
    from tests import forked

    monkeypatch.setattr(processes, "start", forked.start)


@pytest.fixture(autouse=True)
def names_anew() -> Iterator[None]:
    """Forget the names of layers, so that every net gets the same ones.

    Keras's own `clear_session` drops TensorFlow's kernels too, also those of functions that many
    tests call, and to look for garbage before each of 700 tests takes longer than most of them.
    """
    reset_uids()
    yield
