"""Fixtures and settings that tests of several folders share."""

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

from tests.nets import TINY, net


def pytest_configure() -> None:
    """Let XLA, under TensorFlow and JAX, spend less on code that runs once than it takes to run."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", flags)
    # While libraries are imported nothing dies.
    gc.disable()
    if keras.backend.backend() == "tensorflow":
        # Read once, at the first operation: pipelines know no other settings.
        _optimize_graphs(False)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the imported libraries leave, which never dies."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


@pytest.fixture(autouse=True)
def graphs_as_traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run TensorFlow's graphs as they are traced, except in numerical tests.

    A graph that runs a few times takes longer to optimize than to run. Numbers that depend on
    kernels are those of optimized graphs, which fuse operations, as in the commands.
    """
    if keras.backend.backend() == "tensorflow":
        _optimize_graphs(request.node.get_closest_marker("numerical") is not None)
    yield


def _optimize_graphs(optimize: bool) -> None:
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not optimize})


@pytest.fixture(scope="session")
def small_net() -> Callable[..., keras.Model]:
    """Builder of tiny nets whose moving statistics are not those of a new one."""

    def build(seed: int = 1, **options: Any) -> keras.Model:
        options = {"input_shape": None, **options}
        model = net(architecture=TINY, randomize=False, seed=seed, **options)
        rng = np.random.default_rng(seed)
        for variable in model.non_trainable_variables:
            variable.assign(variable + rng.uniform(0.1, 1.0, variable.shape))
        return model

    return build
