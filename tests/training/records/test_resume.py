"""A run that is killed and started again ends as one that was not."""

import contextlib
import io
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from tests import forked
from training.compiling import compile_for_training
from training.net import build_net
from training.optimizer import averaged_statistics
from training.recipe import Recipe, load_recipe
from training.records.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.run import read_run
from training.train import main


def command(recipe: Path, output: Path, *options: str) -> list[str]:
    """Return the arguments of a run with ops that give the same bits each time."""
    arguments = ["--recipe", str(recipe), "--data", "digits", "--output", str(output)]
    return [*arguments, "--deterministic", "--log-every", "1", *options]


def train_all(runs: list[list[str]]) -> str:
    """Run the command several times, and return what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for arguments in runs:
            keras.backend.clear_session(free_memory=False)
            assert main(arguments) == 0
    return printed.getvalue()


def kill_at(line_start: str, run: list[str], log: Path) -> None:
    with open(log, "w") as file:
        process = forked.start(["training.train", *run], file)
    while f"\n{line_start}" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def without_times(history: list[dict]) -> list[dict]:
    return [{key: record[key] for key in record if key != "seconds"} for record in history]


def test_a_run_that_was_killed_or_stopped_ends_as_an_uninterrupted_one(tiny_recipe, tmp_path):
    folders = whole, killed, stopped = [tmp_path / name for name in ("whole", "killed", "stopped")]
    runs = [command(tiny_recipe, folder, "--epochs", "2") for folder in folders]
    kill_at("epoch 2/2  step 4/11", runs[1], tmp_path / "log.txt")
    assert len(read_run(killed)["history"]) == 1
    # The second time the run is there already: nothing is trained.
    runs[2:] = [[*runs[2], "--stop-after", "1"]] * 2
    printed = forked.call(train_all, runs)
    assert "Going on after epoch 1 of 2" in printed
    assert "Stopped after epoch 1 of 2" in printed
    assert printed.count("epoch 1/1  loss") == 1
    assert_same_outcome(whole, killed)
    record = read_run(stopped)
    assert (record["status"], len(record["history"])) == ("running", 1)
    assert not record["stopped_early"]
    assert (stopped / "model.keras").exists()
    forked.call(train_all, [[*runs[2], "--stop-after", "9"]])
    assert read_run(stopped)["status"] == "finished"
    assert_same_outcome(whole, stopped)


@pytest.mark.slow
def test_a_killed_fine_tuning_ends_as_an_uninterrupted_one(tiny_recipe, tmp_path):
    init = tmp_path / "init.weights.h5"
    net = build_net(load_recipe(tiny_recipe), classes=4)
    for variable in net.weights:
        variable.assign(variable + 0.01)
    net.save_weights(init)
    options = ["--init", str(init), "--freeze", "stage2", "--layer-decay", "0.5"]
    options += ["--epochs", "2", "--epoch-steps", "3", "--warmup-epochs", "0.5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs = [command(tiny_recipe, folder, *options) for folder in (whole, killed)]
    kill_at("epoch 2/2  step 2/3", runs[1], tmp_path / "log.txt")
    assert len(read_run(killed)["history"]) == 1
    assert "Going on after epoch 1 of 2" in forked.call(train_all, runs)
    assert_same_outcome(whole, killed)
    trained = keras.saving.load_model(killed / "model.keras", compile=False)
    for name, same in (("stem_conv", True), ("stage2_unit1_conv2", True), ("head_norm", False)):
        for one, other in zip(
            trained.get_layer(name).weights, net.get_layer(name).weights, strict=True
        ):
            assert np.array_equal(one.numpy(), other.numpy()) == same, one.path


def assert_same_outcome(whole: Path, killed: Path) -> None:
    """Check that two runs left the same bits."""
    with (
        np.load(whole / "checkpoint" / "last.npz") as expected,
        np.load(killed / "checkpoint" / "last.npz") as received,
    ):
        arrays = [name for name in expected.files if name != "progress"]
        assert len(arrays) > 30
        assert set(received.files) == set(expected.files)
        for name in arrays:
            np.testing.assert_array_equal(received[name], expected[name], err_msg=name)
    for file in ("model.keras", "best.keras"):
        models = [keras.saving.load_model(run / file) for run in (whole, killed)]
        for one, other in zip(*(model.weights for model in models), strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    histories = [without_times(read_run(run)["history"]) for run in (whole, killed)]
    assert histories[0] == histories[1]


def test_a_checkpoint_restores_every_variable(small_net, tmp_path):
    recipe = Recipe(ema_momentum=0.9)

    def model(seed: int) -> keras.Model:
        keras.backend.clear_session(free_memory=False)
        return compile_for_training(small_net(seed, input_shape=(8, 8, 1), classes=3), recipe, 10)

    saved, other = model(1), model(2)
    images = np.random.RandomState(0).normal(size=(4, 8, 8, 1))
    saved.train_on_batch(images, np.eye(3)[[0, 1, 2, 0]])
    progress = Progress([{"epoch": 1, "val_top1": 0.5}], {"epoch": 1, "val_top1": 0.5})
    save_checkpoint(tmp_path / "last.npz", saved, saved.optimizer, progress)
    assert load_checkpoint(tmp_path / "last.npz", other, other.optimizer) == progress
    for one, two in zip(
        saved.variables + saved.optimizer.variables,
        other.variables + other.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=one.path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.npz"]


def test_a_run_from_before_the_statistics_were_averaged_goes_on(small_net, tmp_path):
    net = small_net(input_shape=(8, 8, 1), classes=3)
    recipe = Recipe(ema_momentum=0.9)
    model = compile_for_training(net, recipe, 10)
    model.train_on_batch(np.ones((4, 8, 8, 1)), np.eye(3)[[0, 1, 2, 0]])
    averages = [average for _, average in averaged_statistics(model.optimizer)]
    path = tmp_path / "last.npz"
    save_checkpoint(path, net, model.optimizer, Progress())
    with np.load(path) as archive:
        before = {
            name: archive[name]
            for name in archive.files
            if not name.endswith(tuple(average.path for average in averages))
        }
        assert len(before) == len(archive.files) - len(averages) < len(archive.files)
    np.savez(path, **before)
    for average in averages:
        average.assign(average + 1)
    load_checkpoint(path, net, model.optimizer)
    for statistic, average in averaged_statistics(model.optimizer):
        np.testing.assert_array_equal(average.numpy(), statistic.numpy())


def test_a_checkpoint_of_another_net_is_refused(small_net, tmp_path):
    net = small_net(input_shape=(8, 8, 1), classes=3)
    optimizer = compile_for_training(net, Recipe(), 10).optimizer
    save_checkpoint(tmp_path / "last.npz", net, optimizer, Progress())
    averaged = compile_for_training(net, Recipe(ema_momentum=0.9), 10)
    with pytest.raises(ValueError, match="of another net or optimizer"):
        load_checkpoint(tmp_path / "last.npz", averaged, averaged.optimizer)
