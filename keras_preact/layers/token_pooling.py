"""One vector per image, made of the tokens of a transformer."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.tensor import Tensor

_KINDS = {
    "token": lambda x: x[:, 0],
    "avg": lambda x: ops.mean(x[:, 1:], axis=1),
    "max": lambda x: ops.max(x[:, 1:], axis=1),
}


@keras.saving.register_keras_serializable(package="keras_preact")
class TokenPooling(keras.layers.Layer):
    """Class token, or mean or maximum over the other tokens, which stand for pixels.

    Args:
        kind: `"token"`, `"avg"` or `"max"`.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: If there is no such kind.
    """

    def __init__(self, kind: str = "token", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kind not in _KINDS:
            raise ValueError(f"`kind` must be one of {tuple(_KINDS)}. Received: {kind!r}")
        self.kind = kind
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return _KINDS[self.kind](inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, _, channels = input_shape
        return batch, channels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}
