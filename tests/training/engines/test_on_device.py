"""Training on images in the memory of the device."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.training.paths import ROOT
from training.run import read_run
from training.train import main

NET = ["--model-options", "units=[1, 1, 1]"]
JOB = ["--recipe", "digits", "--data", "digits", "--data-on-device", *NET, "--warmup-epochs", "1"]
# For what no accuracy tells.
SMALL = ["--model-options", "units=[1, 1]", "channels=[8, 16]", "strides=[1, 2]"]
# Two epochs and one checkpoint.
TWO = ["--epochs", "2", "--save-every", "2"]
# The command where there is no TensorFlow.
WITHOUT_TENSORFLOW = """
import sys

sys.modules["tensorflow"] = None
from training.train import main

status = main()
assert sys.modules["tensorflow"] is None
sys.exit(status)
"""


def run_without_tensorflow(backend, arguments):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_jax_trains_without_tensorflow(tmp_path):
    run_without_tensorflow("jax", [*JOB, *TWO, "--output", str(tmp_path / "run")])
    run = read_run(tmp_path / "run")
    assert run["best"]["val_top1"] > 0.6
    assert "jax" in run["versions"]
    assert "tensorflow" not in run["versions"]


@pytest.mark.slow
def test_torch_trains_without_tensorflow(tmp_path):
    job = [*JOB, "--epochs", "2", "--epoch-steps", "5", "--batch-size", "32"]
    run_without_tensorflow("torch", [*job, "--output", str(tmp_path / "run")])
    losses = [epoch["loss"] for epoch in read_run(tmp_path / "run")["history"]]
    assert losses[1] < losses[0]


@pytest.fixture
def on_tensorflow():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the backend of the other tests")


def test_tensorflow_trains_and_checkpoints_no_images(on_tensorflow, tmp_path):
    assert main([*JOB, *TWO, "--output", str(tmp_path)]) == 0
    assert read_run(tmp_path)["history"][-1]["top1"] > 0.5
    with np.load(tmp_path / "checkpoint" / "last.npz") as arrays:
        assert not [name for name in arrays.files if "pixels" in name]
    net = keras.saving.load_model(tmp_path / "best.keras", compile=False)
    assert net.input_shape == (None, 16, 16, 1)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(on_tensorflow, tmp_path, capsys):
    job = [*JOB, *SMALL, "--epochs", "3", "--save-every", "3", "--epoch-steps", "6"]
    job += ["--ema-momentum", "0.9", "--cutout", "2"]
    weights = {}
    for name, parts in (("whole", [[]]), ("parts", [["--stop-after", "1"], []])):
        for part in parts:
            keras.backend.clear_session(free_memory=False)
            assert main([*job, *part, "--output", str(tmp_path / name)]) == 0
            if part:
                # The two loaders do not go on from each other.
                other = [each for each in job if each != "--data-on-device"]
                assert main([*other, "--output", str(tmp_path / name)]) == 2
        net = keras.saving.load_model(tmp_path / name / "model.keras", compile=False)
        weights[name] = net.get_weights()
    printed = capsys.readouterr()
    assert "Going on after epoch 1 of 3" in printed.out
    assert "data_on_device" in printed.err
    for one, other in zip(weights["whole"], weights["parts"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_loss_that_explodes_ends_the_run(on_tensorflow, tmp_path, capsys):
    job = [*JOB, "--epochs", "2", "--learning-rate", "1e6", "--warmup-learning-rate", "1e6"]
    assert main([*job, "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "(epoch 1), where the learning rate is" in error
    assert "The last good checkpoint is" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crop", "random_resized"], "`crop` = pad or none. Received: 'random_resized'"),
        (["--mixup-alpha", "0.2"], "`mixup_alpha` must be 0.0. Received: 0.2"),
        (["--devices", "CPU:0"], "--devices must not be given. Received: CPU:0"),
        (["--deterministic"], "--deterministic does not apply"),
        (["--data", "cifar10"], "Received: 'cifar10', which is no folder"),
        (["--batch-size", "5000"], "larger than the training set"),
    ],
)
def test_what_is_not_done_on_the_device_is_refused(arguments, message, tmp_path, capsys):
    assert main([*JOB, *arguments, "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
