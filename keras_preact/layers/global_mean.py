"""Mean over height and width, under a name that older files have."""

from __future__ import annotations

import keras


@keras.saving.register_keras_serializable(package="keras_preact")
class GlobalMean2D(keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D`, as older files of nets with attention name it."""
