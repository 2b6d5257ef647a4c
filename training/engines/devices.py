"""Devices that share a run, on any backend of Keras."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from training.engines.accumulation import model_class
from training.processes import WAIT_MINUTES


class Devices:
    """One device of the backend; the base of several.

    Args:
        name: A name such as `GPU:0`; by default the device that the backend computes on by itself.

    Attributes:
        replicas: Number of parts that a batch is divided into.
        chief: Whether this process is the one that writes.
        agree: Returns whether a value is true in at least one worker. Where there are several, all
            of them must call it, and each waits for the others. None where there is one.
    """

    replicas = 1
    chief = True
    agree: Callable[[bool], bool] | None = None

    def __init__(self, name: str = "") -> None:
        self._name = name.lower()

    @property
    def names(self) -> list[str]:
        """Names of the devices, for people."""
        return [self._name or device_kind()]

    @property
    def model(self) -> type[keras.Model]:
        """Class of a model that trains on these devices."""
        return model_class()

    def scope(self) -> AbstractContextManager:
        """Return the context in which a net is built, compiled and trained."""
        return keras.device(self._name) if self._name else contextlib.nullcontext()

    def wait(self) -> None:
        """Let no worker go on before all have come here."""
        if self.agree:
            self.agree(False)

    def average_statistics(self, model: keras.Model) -> None:
        """Give every replica the mean of all replicas' moving statistics, where they differ."""

    def run(self, function: Callable[[], Any]) -> None:
        """Call a function on every replica."""
        function()

    def share(self, make_pipeline: Callable[[Any], Any], batch_size: int) -> Any:
        """Give every replica its part of the batches, for `fit`.

        Args:
            make_pipeline: Makes the parts of the batches that go to a worker, of a
                `tf.distribute.InputContext`, or the whole batches, of None.
            batch_size: Images of a whole batch.

        Returns:
            The batches.
        """
        return make_pipeline(None)

    def share_test(self, make_pipeline: Callable[[Any], Any], batch_size: int) -> Any:
        """Give every replica its part of the batches for an evaluation; see `share`."""
        return self.share(make_pipeline, batch_size)


def choose_devices(names: Sequence[str] = (), wait_minutes: float = WAIT_MINUTES) -> Devices:
    """Choose the devices and how the work is spread over them.

    Args:
        names: Names such as `GPU:0` or `CPU:1`, all of one kind. By default all GPUs, or the CPU
            where there is none; on torch, one device.
        wait_minutes: Longest time to wait for other workers; see `make_strategy`.

    Returns:
        The devices.

    Raises:
        ValueError: If a name is malformed, repeated or of a device that is not there, or the
            backend cannot use as many; if `TF_CONFIG` is malformed, or the backend has no workers.
        OSError: See `make_strategy`, and so for `Preempted`.
    """
    # Each backend's devices import only that backend.
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from training.engines.strategy import Strategy, make_strategy

        return Strategy(make_strategy(names, wait_minutes))
    parse_devices(names)
    if len(read_workers(os.environ.get("TF_CONFIG", ""))[0]) > 1:
        raise ValueError(
            "Several workers train on Keras's TensorFlow backend; set KERAS_BACKEND=tensorflow. "
            f"Received: {backend}, and TF_CONFIG of several workers"
        )
    if backend == "jax":
        from training.engines.sharding import choose_jax_devices

        return choose_jax_devices(names)
    if len(names) > 1:
        raise ValueError(
            f"Training on {backend} runs on one device. Received: --devices {' '.join(names)}"
        )
    return Devices(*names)


def one_device() -> Devices:
    """Return the device that the backend computes on by itself."""
    if keras.backend.backend() != "tensorflow":
        return Devices()
    import tensorflow as tf

    from training.engines.strategy import Strategy

    return Strategy(tf.distribute.get_strategy())


def parse_devices(names: Sequence[str]) -> tuple[str, list[int]]:
    """Check names of devices.

    Args:
        names: Names such as `GPU:0`.

    Returns:
        Their kind, `"CPU"` or `"GPU"`, and their numbers; `""` and none for no names.

    Raises:
        ValueError: If a name is malformed or repeated, or the kinds are mixed.
    """
    parsed = [re.fullmatch(r"(CPU|GPU):(\d+)", name) for name in names]
    kinds = {match[1] for match in parsed if match}
    if not all(parsed) or len(kinds) > 1 or len(set(names)) != len(names):
        raise ValueError(
            "`devices` must be names such as GPU:0, each once, all GPUs or all CPUs. "
            f"Received: {' '.join(names)}"
        )
    return kinds.pop() if kinds else "", [int(match[2]) for match in parsed if match]


def read_workers(tf_config: str) -> tuple[list[str], int]:
    """Read the addresses of the workers.

    Args:
        tf_config: The value of the variable `TF_CONFIG`: JSON as `{"cluster": {"worker":
            ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}`.

    Returns:
        `host:port` of every worker, and the place of this one; none and 0 where the value is empty.

    Raises:
        ValueError: If it is malformed, two workers have one address, or the task is none of the
            workers.
    """
    if not tf_config:
        return [], 0
    try:
        config = json.loads(tf_config)
        tasks, task, index = config["cluster"], config["task"]["type"], config["task"]["index"]
        if set(tasks) != {"worker"} or task != "worker" or index not in range(len(tasks[task])):
            raise ValueError("its tasks must all be of type worker, numbered from 0")
        _check_addresses(tasks["worker"])
        return tasks["worker"], index
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            'TF_CONFIG must be as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": '
            f'{{"type": "worker", "index": 0}}}} ({error}). Received: {tf_config}'
        ) from error


def _check_addresses(workers: list[str]) -> None:
    for index, address in enumerate(workers):
        if not re.fullmatch(r".+:\d{1,5}", address):
            raise ValueError(f"worker {index} must have an address as host1:2222")
        if (first := workers.index(address)) < index:
            raise ValueError(f"workers {first} and {index} have one address, {address}")


def device_kind() -> str:
    """Return the kind of the device that the backend computes on by itself, as it is called."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    return f"{backend} {keras.distribution.list_devices()[0]}"
