"""A small space of tiny nets."""

from __future__ import annotations

import pytest

from tests.tuning.spaces import SPACE
from training.recipe import Recipe
from training.search import RecipeHyperModel

TINY = Recipe(
    model="PreActResNet20",
    model_options={"units": [1, 1], "channels": [8, 16], "strides": [1, 2]},
    epochs=9,
    batch_size=32,
    reference_batch_size=32,
    input_size=8,
    channels=1,
    mean=(0.3,),
    std=(0.4,),
)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Return the recipe of all candidates."""
    return TINY


@pytest.fixture(scope="session")
def hypermodel() -> RecipeHyperModel:
    """288 candidates; a session's, since it keeps the costs of their parts."""
    return RecipeHyperModel(TINY, SPACE, classes=10, steps_per_epoch=2)
