"""The devices a run is spread over."""

from __future__ import annotations

import re
from collections.abc import Sequence

import keras
import tensorflow as tf


def make_strategy(devices: Sequence[str] = ()) -> tf.distribute.Strategy:
    """Choose the devices and how the work is spread over them.

    Must be called before TensorFlow has used a device. Several CPU devices are logical ones that
    share the processor; they serve to try out what several GPUs would do.

    Args:
        devices: Names such as `GPU:0` or `CPU:1`, all of one kind. By default all GPUs, or the
            CPU where there is none.

    Returns:
        A `MirroredStrategy`; for a single device, TensorFlow's default strategy, which does the
        same without the cost of mirroring.

    Raises:
        ValueError: If a name is malformed, repeated or of a device that is not there, if kinds
            are mixed, or if the CPUs are not numbered from 0.
    """
    if devices:
        _select_devices(devices)
    chosen = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(chosen) == 1:
        return tf.distribute.get_strategy()
    # The reduction for NVLink and PCIe needs GPUs; this one works anywhere.
    reduction = None if chosen[0].device_type == "GPU" else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in chosen], reduction)


def device_names() -> list[str]:
    """Names of the devices of this process, and of GPUs the model."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        devices = tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in devices]
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return [f"GPU:{index} {gpu['device_name']}" for index, gpu in enumerate(details)]


def _select_devices(names: Sequence[str]) -> None:
    parsed = [re.fullmatch(r"(CPU|GPU):(\d+)", name) for name in names]
    kinds = {match[1] for match in parsed if match}
    if not all(parsed) or len(kinds) != 1 or len(set(names)) != len(names):
        raise ValueError(
            "`devices` must be names such as GPU:0, each once, all GPUs or all CPUs. "
            f"Received: {' '.join(names)}"
        )
    indices = [int(match[2]) for match in parsed]
    if kinds == {"GPU"}:
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


def average_statistics(model: keras.Model) -> None:
    """Give every replica the mean of all replicas' moving statistics.

    Each replica updates its own from its own part of the batch, so they drift apart.

    Args:
        model: A model built in the scope of its strategy.
    """
    strategy = model.distribute_strategy
    for variable in model.non_trainable_variables:
        copies = strategy.experimental_local_results(variable.value)
        if len(copies) > 1 and variable.dtype.startswith("float"):
            # In this form the mean of equal copies, as of frozen weights, is bit for bit theirs.
            drift = tf.add_n([copy - copies[0] for copy in copies]) / len(copies)
            variable.assign(copies[0] + drift)
