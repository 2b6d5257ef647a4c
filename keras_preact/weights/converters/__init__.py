"""Published checkpoints as weights by the names of this package's layers, one module a source.

Each reads the source's own file format, needs no model, and never unpickles anything.
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
