"""A small space of tiny nets."""

from __future__ import annotations

import pytest

import keras_preact
from keras_preact.architecture import Architecture
from keras_preact.tuning import PreActHyperModel, SearchSpace

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


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    """Return what all candidates share."""
    return TINY


@pytest.fixture(scope="session")
def hypermodel() -> PreActHyperModel:
    """288 candidates; a session's, since it keeps the costs of their parts."""
    return PreActHyperModel(TINY, SPACE, input_shape=SHAPE, classes=10)
