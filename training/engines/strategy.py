"""Devices and workers that share a run on TensorFlow."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from training.cores import usable_cores
from training.engines.devices import Devices, parse_devices, read_workers
from training.engines.replicated import ReplicatedModel
from training.engines.roll_call import call_roll
from training.optimizer import averaged_statistics, moving_statistics
from training.processes import WAIT_MINUTES


class Strategy(Devices):
    """Devices of TensorFlow, in this process or several.

    Args:
        strategy: From `make_strategy`.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        super().__init__()
        self._strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        resolver = strategy.cluster_resolver
        self.chief = resolver is None or not resolver.task_id
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            self.agree = lambda value: bool(self._total(tf.constant(value, tf.float32)) > 0)
        self._total = tf.function(self._add_up, autograph=False)
        self._average = tf.function(average_statistics, autograph=False)

    @property
    def model(self) -> type[keras.Model]:
        """Class of a model that trains on these devices."""
        return ReplicatedModel

    @property
    def names(self) -> list[str]:
        """Names of the devices of this process, for GPUs with their model."""
        gpus = tf.config.get_visible_devices("GPU")
        if not gpus:
            devices = tf.config.list_logical_devices("CPU")
            return [device.name.removeprefix("/device:") for device in devices]
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return [f"GPU:{index} {gpu['device_name']}" for index, gpu in enumerate(details)]

    def scope(self) -> AbstractContextManager:
        """Return the context in which a net is built, compiled and trained."""
        return self._strategy.scope()

    def average_statistics(self, model: keras.Model) -> None:
        """Give every replica the mean of all replicas' moving statistics."""
        self._average(model)

    def run(self, function: Callable[[], Any]) -> None:
        """Call a function on every replica."""
        tf.function(lambda: self._strategy.run(function), autograph=False)()

    def share(
        self,
        make_pipeline: Callable[[tf.distribute.InputContext], tf.data.Dataset],
        batch_size: int,
    ) -> tf.data.Dataset | tf.distribute.DistributedDataset:
        """Give every replica its part of the batches; see `Devices.share`."""

        def make_parts(context: tf.distribute.InputContext) -> tf.data.Dataset:
            parts = make_pipeline(context)
            if context.num_replicas_in_sync == context.num_input_pipelines:
                return parts
            return parts.rebatch(context.get_per_replica_batch_size(batch_size))

        return self._strategy.distribute_datasets_from_function(make_parts)

    def _add_up(self, value: tf.Tensor) -> tf.Tensor:
        """Add up a number over all replicas."""

        def add(value: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # Create it on the replica's device; arguments are not placed.
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

        totals = self._strategy.run(add, args=(value,))
        return self._strategy.experimental_local_results(totals)[0]


def make_strategy(
    devices: Sequence[str] = (), wait_minutes: float = WAIT_MINUTES
) -> tf.distribute.Strategy:
    """Choose the devices and how the work is spread over them.

    It must be called before TensorFlow has used a device. Several CPU devices are logical ones that
    share the processor. As many as there are cores train faster than one where a net's operations
    are small; any number serves to try out what several GPUs would do.

    Args:
        devices: Names such as `GPU:0` or `CPU:1`, all of one kind. By default all GPUs, or the
            CPU where there is none.
        wait_minutes: Longest time to wait for other workers.

    Returns:
        A `MultiWorkerMirroredStrategy` if the variable `TF_CONFIG` of the environment names
        several workers, each of which uses its own devices; otherwise a `MirroredStrategy`; for
        a single device, TensorFlow's default strategy, which does the same without the cost of
        mirroring.

    Raises:
        ValueError: If a name is malformed, repeated or of a device that is not there, if kinds
            are mixed, or if the CPUs are not numbered from 0; if `TF_CONFIG` is malformed, or a
            worker is given several CPUs; if this worker is there twice.
        OSError: If the port of this worker is in use, or others are missing for too long.
        Preempted: If the process was asked to stop while it waited for them.
    """
    workers, index = read_workers(os.environ.get("TF_CONFIG", ""))
    if devices:
        _select_devices(devices)
    if len(workers) > 1:
        if len(devices) > 1 and devices[0].startswith("CPU"):
            raise ValueError(
                "Each of several workers computes on its GPUs or on one CPU. "
                f"Received: {' '.join(devices)}"
            )
        call_roll(workers, index, wait_minutes)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        # TensorFlow sets a handler of its own, which only takes note.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        return strategy
    chosen = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(chosen) == 1:
        return tf.distribute.get_strategy()
    # The reduction for NVLink and PCIe needs GPUs; this one works anywhere.
    reduction = None if chosen[0].device_type == "GPU" else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in chosen], reduction)


def _select_devices(names: Sequence[str]) -> None:
    kind, indices = parse_devices(names)
    if kind == "GPU":
        _select_gpus(indices)
    else:
        _split_cpu(indices)


def _select_gpus(indices: list[int]) -> None:
    gpus = tf.config.list_physical_devices("GPU")
    if max(indices) >= len(gpus):
        raise ValueError(
            f"`devices` names GPU:{max(indices)}, and TensorFlow sees {len(gpus)} GPUs here."
        )
    tf.config.set_visible_devices([gpus[index] for index in indices], "GPU")


def _split_cpu(indices: list[int]) -> None:
    if sorted(indices) != list(range(len(indices))):
        raise ValueError(f"CPUs must be numbered from 0 without a gap. Received: {indices}")
    tf.config.set_visible_devices([], "GPU")
    parts = [tf.config.LogicalDeviceConfiguration() for _ in indices]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    # As `training.processes` is told, where this process is a trial of a search.
    chosen = "TF_NUM_INTRAOP_THREADS" in os.environ
    if len(parts) >= usable_cores() and not chosen:
        # Every core has a replica to itself, so that no operation waits for another core's share.
        tf.config.threading.set_intra_op_parallelism_threads(1)


def average_statistics(model: keras.Model) -> None:
    """Give every replica the mean of all replicas' moving statistics, and of their averages.

    Each replica updates its own from its own part of the batch, so they drift apart.

    Args:
        model: A model built in the scope of its strategy. Where that has several workers, all of
            them must call this.
    """
    strategy = model.distribute_strategy
    statistics = moving_statistics(model)
    statistics += [average for _, average in averaged_statistics(model.optimizer)]
    if strategy.num_replicas_in_sync == 1 or not statistics:
        return

    def gather() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        return context.all_gather([each.value[tf.newaxis] for each in statistics], axis=0)

    for variable, gathered in zip(statistics, strategy.run(gather), strict=True):
        copies = strategy.experimental_local_results(gathered)[0]
        # In this form the mean of equal copies, such as frozen weights, is bit for bit theirs.
        variable.assign(copies[0] + tf.reduce_mean(copies - copies[0], axis=0))
