"""Several workers on one machine do what a single process does, and survive what may happen."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.training.paths import ROOT
from training import launch
from training.engines.devices import read_workers
from training.engines.strategy import make_strategy
from training.processes import PREEMPTED
from training.run import read_run

# No dropout, which every replica draws alike for its part, and no statistics of batches, of which
# every replica has its own: what is left is the same however a batch is shared.
ALIKE = [
    "--model-options",
    "units=[1,1]",
    "channels=[8,16]",
    "strides=[1,2]",
    'norm="none"',
    'residual_scaling="skip_init"',
    "dropout=0.0",
    "drop_path=0.0",
]
# With statistics of batches: two workers do what two devices of one process do.
WITH_NORM = ["--model-options", "units=[1,1]", "channels=[8,16]", "strides=[1,2]"]


class Running:
    """A command that is running, whose lines can be waited for."""

    def __init__(self, module: str, *arguments: str | Path) -> None:
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, pattern: str) -> re.Match:
        for line in self.process.stdout:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"no line {pattern!r} in:\n" + "".join(self.lines))

    def end(self) -> int:
        self.lines += self.process.stdout
        return self.process.wait()

    @property
    def output(self) -> str:
        return "".join(self.lines)


def arguments(recipe: Path, output: Path, *options: str) -> list[str | Path]:
    return ["--recipe", recipe, "--data", "digits", "--output", output, *options]


def run(module: str, *options: str | Path) -> str:
    running = Running(module, *options)
    assert running.end() == 0, running.output
    return running.output


def curves(output: Path) -> dict[str, list[float]]:
    history = read_run(output)["history"]
    return {name: [record[name] for record in history] for name in ("loss", "top1", "val_loss")}


def assert_same_curves(one: Path, other: Path) -> None:
    expected = curves(one)
    # A run that learns nothing would have any curve.
    assert expected["loss"][-1] < expected["loss"][0] - 0.005
    for name, values in curves(other).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-3, err_msg=name)


def test_two_workers_have_the_curves_of_one_process(train, tiny_recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--epochs", "2", "--save-every", "2", "--learning-rate", "0.3", *ALIKE]
    assert train(one, *options) == 0
    output = run("training.launch", "--workers", "2", "--", *arguments(tiny_recipe, two, *options))
    assert_same_curves(one, two)
    # Only the chief writes.
    assert len(re.findall(r"epoch 2/2  loss", output)) == 1
    assert "[0] epoch 2/2" in output
    assert len(list((two / "tensorboard" / "train").iterdir())) == 1
    assert read_run(two)["status"] == "finished"
    models = [keras.saving.load_model(folder / "model.keras") for folder in (one, two)]
    for first, second in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-3, err_msg=first.path)


@pytest.mark.slow
def test_two_workers_with_batch_norm_have_the_curves_of_two_devices(tiny_recipe, tmp_path):
    devices, workers = tmp_path / "devices", tmp_path / "workers"
    # A higher rate multiplies what kernels on one thread and on several round differently: it
    # grows from 1e-6 in the first epoch to 1e-3 in the third, on some processors.
    options = [*WITH_NORM, "--epochs", "2", "--learning-rate", "0.03"]
    two_devices = arguments(tiny_recipe, devices, *options, "--devices", "CPU:0", "CPU:1")
    run("training.train", *two_devices)
    run("training.launch", "--workers", "2", "--", *arguments(tiny_recipe, workers, *options))
    assert_same_curves(devices, workers)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(tiny_recipe, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("training.launch", "--workers", "2", "--", *arguments(tiny_recipe, whole, *WITH_NORM))
    options = ["--log-every", "1", *WITH_NORM]
    job = Running(
        "training.launch", "--workers", "2", "--restarts", "1", "--",
        *arguments(tiny_recipe, killed, *options),
    )  # fmt: skip
    worker = int(job.wait_for(r"\[1\] process (\d+)")[1])
    job.wait_for(r"\[0\] epoch 2/3  step 4/11")
    os.kill(worker, signal.SIGKILL)
    assert job.end() == 0, job.output
    assert "[0] training.train: Worker 1 is gone. The same command, for all workers, " in job.output
    assert "Traceback" not in job.output
    assert f"ended with status {128 + signal.SIGKILL}" in job.output
    assert "Starting all workers again: 1 of 1." in job.output
    assert "Going on after epoch 1 of 3." in job.output
    expected, received = (read_run(folder)["history"] for folder in (whole, killed))
    assert len(expected) == len(received) == 3
    for one, other in zip(expected, received, strict=True):
        for name in set(one) - {"seconds"}:
            assert other[name] == pytest.approx(one[name], abs=1e-5), name


@pytest.mark.slow
def test_a_preempted_worker_makes_all_save_and_stop(tiny_recipe, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ["--epochs", "2", "--epoch-steps", "40", "--log-every", "1", *WITH_NORM]
    run("training.launch", "--workers", "2", "--", *arguments(tiny_recipe, whole, *options))
    job = Running(
        "training.launch", "--workers", "2", "--", *arguments(tiny_recipe, stopped, *options)
    )
    worker = int(job.wait_for(r"\[1\] process (\d+)")[1])
    job.wait_for(r"\[0\] epoch 2/2  step 3/40")
    os.kill(worker, signal.SIGTERM)
    assert job.end() == PREEMPTED, job.output
    assert job.output.count("Stopped as asked.") == 2
    with np.load(stopped / "checkpoint" / "last.npz") as arrays:
        step = json.loads(str(arrays["progress"]))["step"]
    assert step % 10 == 0
    assert 0 < step < 40
    output = run(
        "training.launch", "--workers", "2", "--", *arguments(tiny_recipe, stopped, *options)
    )
    assert f"Going on after epoch 1 of 2 and {step} steps of the next." in output
    assert f"epoch 2/2  step {step + 1}/40" in output
    expected, received = (read_run(folder)["history"] for folder in (whole, stopped))
    for one, other in zip(expected, received, strict=True):
        for name in set(one) - {"seconds"}:
            assert other[name] == pytest.approx(one[name], abs=1e-4), name


@pytest.mark.slow
def test_workers_that_stopped_after_an_epochs_last_step_go_on_with_its_evaluation(
    tiny_recipe, tmp_path
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    # Workers ask one another every ten steps, and after the last.
    options = ["--epochs", "2", "--epoch-steps", "8", "--log-every", "1", *WITH_NORM]
    run("training.launch", "--workers", "2", "--", *arguments(tiny_recipe, whole, *options))
    command = ["training.launch", "--workers", "2", "--"]
    command += arguments(tiny_recipe, stopped, *options)
    job = Running(*command)
    worker = int(job.wait_for(r"\[1\] process (\d+)")[1])
    job.wait_for(r"\[0\] epoch 1/2  step 1/8")
    os.kill(worker, signal.SIGTERM)
    assert job.end() == PREEMPTED, job.output
    with np.load(stopped / "checkpoint" / "last.npz") as arrays:
        progress = json.loads(str(arrays["progress"]))
    assert progress["step"] == 8
    epochs = len(progress["history"])
    output = run(*command)
    assert f"Going on after epoch {epochs} of 2 and 8 steps of the next." in output
    assert f"epoch {epochs + 1}/2  step" not in output
    expected, received = (read_run(folder)["history"] for folder in (whole, stopped))
    for one, other in zip(expected, received, strict=True):
        for name in set(one) - {"seconds"}:
            assert other[name] == pytest.approx(one[name], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="https://github.com/keras-team/keras/issues/20585")
def test_keras_s_own_model_trains_on_several_workers():
    """Once this passes, `ReplicatedModel` need not replace the functions of a step."""
    script = Path(__file__).with_name("engines") / "plain_fit.py"
    workers = [
        subprocess.Popen([sys.executable, script], env={**os.environ, **environment})
        for environment in launch.environments(2, gpus_per_worker=0)
    ]
    statuses = []
    with contextlib.suppress(subprocess.TimeoutExpired):
        statuses = [worker.wait(timeout=120) for worker in workers]
    for worker in workers:
        worker.kill()
        worker.wait()
    assert statuses == [0, 0]


def test_wrong_arguments_end_all_workers(tiny_recipe, tmp_path):
    output = tmp_path / "run"
    job = Running(
        "training.launch", "--workers", "2", "--restarts", "3", "--",
        *arguments(tiny_recipe, output, "--batch-size", "127"),
    )  # fmt: skip
    assert job.end() == 2
    assert "`batch_size` must be a multiple of the 2 devices" in job.output
    assert "Starting all workers again" not in job.output
    assert not output.exists()


class Process:
    """A process of which each look in turn says whether it has ended."""

    pid, stdout = 1, ()

    def __init__(self, looks: list[int | None]) -> None:
        self.looks = looks

    def poll(self) -> int | None:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def send_signal(self, number: int) -> None:
        pass

    def wait(self) -> int | None:
        return self.looks[-1]


@pytest.mark.parametrize(
    ("looks", "status"),
    [
        ([[None, None, 0], [None, 0]], 0),
        # Between any two looks.
        ([[1]], 1),
        ([[None, 1]], 1),
        ([[None, None, 1]], 1),
        ([[None, 0], [None, None, 2]], 2),
        # A worker that misses another ends with 75.
        ([[None, PREEMPTED], [None, -signal.SIGKILL]], 128 + signal.SIGKILL),
        ([[PREEMPTED], [None, 1]], PREEMPTED),
        ([[PREEMPTED], [1]], 1),
    ],
)
def test_a_job_has_the_status_of_what_failed_first(monkeypatch, looks, status):
    workers = iter([Process(list(each)) for each in looks])
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: next(workers))
    monkeypatch.setattr(launch, "INTERVAL", 0.0)
    assert launch.Job([], len(looks), gpus_per_worker=0).wait() == status


def test_every_worker_has_a_place_and_gpus_of_its_own(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environments = launch.environments(3, gpus_per_worker=2)
    configs = [json.loads(each["TF_CONFIG"]) for each in environments]
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]
    addresses, _ = read_workers(environments[0]["TF_CONFIG"])
    assert all(config["cluster"] == {"worker": addresses} for config in configs)
    assert len(set(addresses)) == 3
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["0,1", "2,3", "4,5"]
    assert launch.environments(1, gpus_per_worker=0)[0]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("visible", "names"),
    [("2,3", ["2", "3"]), ("GPU-0a,GPU-0b,GPU-0c", ["GPU-0a", "GPU-0b"])],
)
def test_workers_have_gpus_that_the_launcher_may_use(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in launch.environments(2, 1)] == names


def test_free_ports_are_free():
    with contextlib.ExitStack() as stack:
        for port in launch.free_ports(3):
            stack.enter_context(socket.create_server(("localhost", port)))


@pytest.mark.parametrize(
    "tf_config",
    [
        "{",
        "[]",
        "{}",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_malformed_tf_config_is_refused(monkeypatch, tf_config):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(ValueError, match="TF_CONFIG must be as"):
        make_strategy()


def test_workers_do_not_split_their_processor(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", launch.environments(2, 0)[0]["TF_CONFIG"])
    monkeypatch.setattr("training.engines.strategy._select_devices", lambda devices: None)
    with pytest.raises(ValueError, match="on its GPUs or on one CPU"):
        make_strategy(["CPU:0", "CPU:1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "Received: 0, 0, 0"),
        (["--workers", "2", "--restarts", "-1"], "Received: 2, 0, -1"),
        (["--workers", "two"], "invalid int value: 'two'"),
        (["--workers", "2", "--gpus-per-worker", "1"], "need 2 GPUs in all. Received: 1, of CUDA"),
    ],
)
def test_wrong_options_of_the_launcher_are_refused(monkeypatch, capsys, options, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,-1,4")
    with pytest.raises(SystemExit) as exit_:
        launch.main([*options, "--", "--recipe", "digits"])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
