"""Several devices of JAX: each holds the whole net and a part of every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from training.engines.accumulation.on_jax import JaxModel
from training.engines.devices import Devices, parse_devices


class ShardedModel(JaxModel):
    """Model that evaluates batches which do not divide by the devices.

    They come padded, with an array of the shape `(devices, images)` whose second axis says how many
    of the images are none of the padding. A shape is known when the step is compiled.
    """

    def test_step(self, state: tuple, data: tuple) -> tuple:
        """Evaluate the images of a padded batch."""
        images, labels, shape = data
        count = shape.shape[1]
        return super().test_step(state, (images[:count], labels[:count]))


class ShardedDevices(Devices):
    """Several devices of JAX in this process.

    A step is that of one device, the statistics of batch norm included: they are those of the whole
    batch.

    Args:
        names: Names of the devices as `keras.distribution` has them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = list(names)
        self._distribution = keras.distribution.DataParallel(devices=self._names)
        self.replicas = len(self._names)

    @property
    def model(self) -> type[keras.Model]:
        """Class of a model that trains on these devices."""
        return ShardedModel

    @property
    def names(self) -> list[str]:
        """Names of the devices, for people."""
        return self._names

    def scope(self) -> AbstractContextManager:
        """Return the context in which a net is built, compiled and trained."""
        return self._distribution.scope()

    def share_test(self, make_pipeline: Callable[[Any], Any], batch_size: int) -> Any:
        """Pad the batches for an evaluation; see `ShardedModel`."""
        # Only the images' pipelines need TensorFlow.
        import tensorflow as tf

        def pad(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            count = tf.shape(images)[0]
            missing = -count % self.replicas
            padded = (
                tf.pad(each, [[0, missing], *[[0, 0]] * (each.shape.rank - 1)])
                for each in (images, labels)
            )
            return *padded, tf.zeros([self.replicas, count], tf.uint8)

        return make_pipeline(None).map(pad)


def choose_jax_devices(names: Sequence[str]) -> Devices:
    """Choose devices of JAX.

    Args:
        names: Names such as `GPU:0`; by default all devices of JAX's default kind.

    Returns:
        The devices.

    Raises:
        ValueError: If there is no such device.
    """
    kind, indices = parse_devices(names)
    there = keras.distribution.list_devices(kind.lower() or None)
    if max(indices, default=0) >= len(there):
        hint = " (XLA_FLAGS=--xla_force_host_platform_device_count=N gives N)" * (kind == "CPU")
        raise ValueError(
            f"`devices` names {kind}:{max(indices)}, and JAX sees {len(there)} {kind}s here{hint}."
        )
    chosen = [there[index] for index in indices] or there
    return ShardedDevices(chosen) if len(chosen) > 1 else Devices(*names)
