"""Several replicas do what one does. See `replicas.py` for what runs in the processes."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.forked import call
from tests.training.engines import replicas
from training.engines.devices import choose_devices
from training.engines.prepare import prepare_machine
from training.engines.strategy import make_strategy
from training.launch import environments
from training.recipe import Recipe


def run_replicas(devices: int, output: Path) -> dict[str, np.ndarray]:
    call(replicas.train_on, devices, output)
    with np.load(output) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory) -> dict[str, np.ndarray]:
    return run_replicas(1, tmp_path_factory.mktemp("replicas") / "one.npz")


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_replicas_train_and_evaluate_as_one(one_replica, devices, tmp_path):
    several = run_replicas(devices, tmp_path / "several.npz")
    compared = [name for name in one_replica if name.startswith(("alike", "distinct"))]
    assert {"alike loss", "alike val_loss", "distinct val_top1"} <= set(compared)
    for name in compared:
        np.testing.assert_allclose(
            several[name], one_replica[name], rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert several["spread before"] > 1e-4
    assert several["spread after"] == 0.0
    assert several["threads"] == int(devices >= len(os.sched_getaffinity(0)))


def threads_of_replicas(asked: dict[str, str]) -> int:
    """Return the number that TensorFlow is told, with some variables of the environment."""
    os.environ |= asked
    make_strategy([f"CPU:{index}" for index in range(len(os.sched_getaffinity(0)))])
    return tf.config.threading.get_intra_op_parallelism_threads()


def test_replicas_keep_to_the_threads_that_were_asked_for():
    """As for the trials of a search, whose workers share the cores."""
    assert call(threads_of_replicas, {}) == 1
    # 0: TensorFlow reads the variable itself.
    assert call(threads_of_replicas, {"TF_NUM_INTRAOP_THREADS": "2"}) == 0


def test_one_device_needs_no_mirroring():
    strategy = make_strategy()
    if len(tf.config.list_logical_devices("GPU")) < 2:
        assert strategy.num_replicas_in_sync == 1
        assert not isinstance(strategy, tf.distribute.MirroredStrategy)
    else:
        assert isinstance(strategy, tf.distribute.MirroredStrategy)


@pytest.mark.parametrize(
    "devices",
    [["TPU:0"], ["GPU"], ["CPU:0", "GPU:0"], ["CPU:0", "CPU:0"], ["CPU:1"], ["GPU:99"]],
)
def test_wrong_devices_are_refused(devices):
    with pytest.raises(ValueError, match="`devices`|numbered from 0"):
        make_strategy(devices)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(jit_compile=True), "`jit_compile` works on one device only"),
        (Recipe(batch_size=5), "`batch_size` must be a multiple of the 2 devices"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(monkeypatch, recipe, message):
    class Two:
        replicas = 2

    monkeypatch.setattr("training.engines.prepare.choose_devices", lambda *options: Two())
    with pytest.raises(ValueError, match=message):
        prepare_machine(recipe, (), deterministic=False)


@pytest.mark.parametrize(
    ("backend", "names", "workers", "message"),
    [
        ("torch", ["CPU:0", "CPU:1"], 1, "torch runs on one device"),
        ("torch", [], 2, "Several workers train on Keras's TensorFlow backend"),
        ("jax", [], 2, "Several workers train on Keras's TensorFlow backend"),
        ("jax", ["CPU:0", "GPU:0"], 1, "all GPUs or all CPUs"),
        ("jax", ["CPU:7"], 1, "names CPU:7, and JAX sees 1 CPUs .*device_count=N gives N"),
    ],
)
def test_what_other_backends_cannot_do_is_refused(monkeypatch, backend, names, workers, message):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: ["cpu:0"])
    monkeypatch.setenv("TF_CONFIG", environments(workers, 0)[0]["TF_CONFIG"])
    with pytest.raises(ValueError, match=message):
        choose_devices(names)
