"""Matrices of low-rank adaptation (LoRA) in layers that are loaded."""

from __future__ import annotations

import keras

# By layer, the first of the two matrices, which Keras draws where it begins with the second at 0.
_FIRST = ("lora_kernel_a", "lora_embeddings_a")


def restart_lora(layer: keras.layers.Layer) -> None:
    """Draw the first of LoRA's matrices anew in a layer that was loaded, if it has them.

    Keras saves the matrices merged into the kernel, and loads zeros for both. Each is a factor of
    the other's gradient, so that neither would ever train. Their product stays zero.

    Args:
        layer: Any layer, built. It is changed in place.
    """
    if not getattr(layer, "lora_enabled", False):
        return
    for name in _FIRST:
        if (matrix := getattr(layer, name, None)) is not None:
            # As `enable_lora` does by default.
            draw = keras.initializers.HeUniform()
            matrix.assign(draw(matrix.shape, dtype=matrix.dtype))
