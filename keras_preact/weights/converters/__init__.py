"""Readers of published checkpoints, one module per source.

Each reads the file format of its source and returns weights by the names of this package's layers.
None needs a model, and none ever unpickles anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from keras_preact.named_weights import NamedWeights
from keras_preact.weights.converters import bit, keras_applications, keras_hub, timm

CONVERTERS: dict[str, Callable[[str | os.PathLike], NamedWeights]] = {
    "bit": bit.read,
    "keras_applications": keras_applications.read,
    "keras_hub": keras_hub.read,
    "timm": timm.read,
}

__all__ = ["CONVERTERS"]
