"""Channels of zeros."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class PadChannels(keras.layers.Layer):
    """Channels of zeros after those of the input.

    They let a shortcut without weights follow its unit to more channels (arXiv:1512.03385, option
    A; arXiv:1610.02915).

    Args:
        channels: Number of channels to add.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If `channels` is negative.
    """

    def __init__(self, channels: int, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if channels < 0:
            raise ValueError(f"`channels` must not be negative. Received: {channels}")
        self.channels = channels
        self.data_format = keras.config.image_data_format() if data_format is None else data_format
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        widths = [(0, 0)] * len(inputs.shape)
        widths[1 if self.data_format == "channels_first" else -1] = (0, self.channels)
        return ops.pad(inputs, widths)

    def get_config(self) -> dict[str, Any]:
        config = {"channels": self.channels, "data_format": self.data_format}
        return {**super().get_config(), **config}
