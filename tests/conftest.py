"""What tests of several folders share."""

import gc
from collections.abc import Callable
from typing import Any

import keras
import pytest

import keras_preact


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the imported libraries leave, which never dies."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(scope="session")
def small_net() -> Callable[..., keras.Model]:
    """Builds a net of two units whose moving statistics are not those of a new one."""

    def build(seed: int = 1, **options: Any) -> keras.Model:
        keras.utils.set_random_seed(seed)
        architecture = keras_preact.Architecture(
            unit="basic",
            units=(1, 1),
            channels=(8, 16),
            strides=(1, 2),
            stem="cifar",
            stem_channels=8,
        )
        model = keras_preact.PreActResNet(architecture, **options)
        for variable in model.non_trainable_variables:
            variable.assign(variable + keras.random.uniform(variable.shape, 0.1, 1.0))
        return model

    return build
