"""Functions of images that TensorFlow traces once, however many graphs call them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from keras_preact.tensor import Tensor


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


def call_if(
    condition: Tensor,
    then: Callable[[Tensor], Tensor],
    otherwise: Callable[[Tensor], Tensor],
    file: Tensor,
    dtype: Any,
    shape: Sequence[int],
) -> Tensor:
    """Call one of two functions of a file, in a graph or eagerly.

    `tf.cond` becomes part of the graph around it, where a branch with a loop takes its time even if
    it is not taken. The operation here calls a function, or does not.

    Args:
        condition: Scalar bool.
        then: Called with the file where the condition holds.
        otherwise: Called where it does not.
        file: Scalar TensorFlow string.
        dtype: Of the tensor that both return.
        shape: Its shape.

    Returns:
        The tensor.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return then(file) if condition else otherwise(file)
    signature = [tf.TensorSpec([], tf.string)]
    branches = [
        tf.function(branch, signature, autograph=False).get_concrete_function()
        for branch in (then, otherwise)
    ]
    (result,) = tf.raw_ops.StatelessIf(
        cond=condition,
        input=[file],
        Tout=[dtype],
        then_branch=branches[0],
        else_branch=branches[1],
        output_shapes=[list(shape)],
    )
    return result
