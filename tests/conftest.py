"""Fixtures and settings that tests of several folders share."""

import functools
import gc
import os
import shutil
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator
from typing import Any

# Keras and matplotlib read their settings here when they are imported, and keep caches here. So
# those of the user decide nothing, and what the user has is left alone. Tests that download use it.
os.environ.setdefault("USERS_KERAS_HOME", os.environ.get("KERAS_HOME", ""))
os.environ["KERAS_HOME"] = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="keras_preact-")
# Threads of torch compute while they wait for one another: most of the time, on shared cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import pytest

from tests.nets import TINY, net

_HOME = os.environ["KERAS_HOME"]


def pytest_configure() -> None:
    """Let XLA, under TensorFlow and JAX, spend less on code that runs once than it takes to run."""
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # What they write takes longer to compile than what the older ones do.
        "--xla_cpu_use_fusion_emitters=false",
        # Parts of one program are compiled beside one another, and take more time together.
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))
    _reach_this_machine_directly()
    # It reports every conversion to its authors, and waits for seconds where it cannot.
    sys.modules["openvino_telemetry"] = None
    # While libraries are imported nothing dies.
    gc.disable()
    _remember_protocols()
    if keras.backend.backend() == "tensorflow":
        # Read once, at the first operation: pipelines know no other settings.
        _optimize_graphs(False)


def pytest_unconfigure() -> None:
    """Remove the folder of Keras and matplotlib."""
    shutil.rmtree(_HOME, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the imported libraries leave, which never dies."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Let it pass over what the tests of other files leave, too.

    Keras and KerasTuner look for all garbage whenever they clear a session, which takes longer the
    more there is to look at: in the end a second, hundreds of times.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def graphs_as_traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run TensorFlow's graphs as they are traced, except in numerical tests.

    A graph that runs a few times takes longer to optimize than to run. Numbers that depend on
    kernels are those of optimized graphs, which fuse operations, as in the commands.
    """
    if keras.backend.backend() == "tensorflow":
        _optimize_graphs(request.node.get_closest_marker("numerical") is not None)
    yield


def _reach_this_machine_directly() -> None:
    """Let no proxy of the environment stand between tests and their servers on this machine."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    hosts = ",".join(filter(None, [others, "127.0.0.1", "localhost"]))
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY", "no_grpc_proxy"), hosts)


def _remember_protocols() -> None:
    """List the members of a protocol once, as later versions of Python do.

    TensorFlow asks what follows its protocols for every variable and every traced argument.
    """
    if sys.version_info < (3, 12):
        typing._get_protocol_attrs = functools.cache(typing._get_protocol_attrs)


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
