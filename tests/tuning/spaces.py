"""A small search space of tiny nets."""

from __future__ import annotations

import keras_preact
from keras_preact.tuning import SearchSpace

TINY = keras_preact.PreActResNet20.architecture.replace(
    units=(1, 1), channels=(8, 16), strides=(1, 2)
)
SHAPE = (8, 8, 1)
SPACE = SearchSpace(
    units=(1, 2, 3),
    channels=(8, 16),
    choices={"attention": (None, "se"), "drop_path": (0, 0.1)},
    learning_rate=(0.05, 0.1),
)
