"""A small space of tiny nets."""

from __future__ import annotations

import pytest

from keras_preact.architecture import Architecture
from keras_preact.tuning import PreActHyperModel
from tests.tuning.spaces import SHAPE, SPACE, TINY


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    """Return what all candidates share."""
    return TINY


@pytest.fixture(scope="session")
def hypermodel() -> PreActHyperModel:
    """288 candidates; a session's, since it keeps the costs of their parts."""
    return PreActHyperModel(TINY, SPACE, input_shape=SHAPE, classes=10)
