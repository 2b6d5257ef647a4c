"""Functions of images that TensorFlow traces once, however many graphs call them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let all graphs that call a function share its graph.

    Reading, decoding and resizing an image is some hundred operations, which every pipeline and
    every signature of an export would trace anew, for longer than the pipeline of a small set runs.

    Args:
        function: Takes TensorFlow tensors, and hashable values that choose the graph. It returns
            tensors. Called outside of a graph it runs as it is.
    """

    @functools.cache
    def graph() -> Callable[..., Any]:
        import tensorflow as tf

        return tf.function(function, autograph=False, reduce_retracing=True)

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        import tensorflow as tf

        run = function if tf.executing_eagerly() else graph()
        return run(*args, **options)

    return call
