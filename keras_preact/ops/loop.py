"""Loop over stacked tensors, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from keras_preact.tensor import Tensor

# Takes the carried tensor and one slice of every stacked tensor; returns the next carried tensor,
# of the same shape and dtype, and the slices to collect.
Step = Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]


def loop(
    step: Step, carry: Tensor, stacked: list[Tensor], collected: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Carry a tensor through one step for each slice along the leading axis of stacked tensors.

    `keras.ops.scan` does this, but on TensorFlow it can collect nothing that differs from the
    carried tensor in shape or dtype.

    Args:
        step: Function of the carried tensor and one slice of each stacked tensor.
        carry: The tensor carried into the first step.
        stacked: Tensors of one length along their leading axis.
        collected: For every slice that `step` collects, a stacked tensor of the same shape and
            dtype as the result.

    Returns:
        The tensor carried out of the last step, and what the steps collected, stacked.
    """
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_loop(step, carry, stacked, collected)
    return ops.scan(step, carry, stacked)


def _tensorflow_loop(
    step: Step, carry: Tensor, stacked: list[Tensor], collected: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    import tensorflow as tf

    if tf.executing_eagerly():
        return _eager_loop(step, carry, stacked)
    count = stacked[0].shape[0]
    # Taken from the end, since the gradient of that adds to a list, while that of reading at an
    # index adds whole lists: work that grows with the square of the steps.
    shapes = [tf.constant(each.shape[1:].as_list(), tf.int32) for each in stacked]
    slices = [
        tf.raw_ops.TensorListFromTensor(tensor=tf.reverse(each, [0]), element_shape=shape)
        for each, shape in zip(stacked, shapes, strict=True)
    ]

    def body(
        index: Tensor, carry: Tensor, slices: list[Tensor], results: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        taken = [
            tf.raw_ops.TensorListPopBack(
                input_handle=rest, element_shape=shape, element_dtype=each.dtype
            )
            for rest, shape, each in zip(slices, shapes, stacked, strict=True)
        ]
        carry, values = step(carry, [each.tensor for each in taken])
        results = [each.write(index, value) for each, value in zip(results, values, strict=True)]
        return index + 1, carry, [each.output_handle for each in taken], results

    _, carry, _, results = tf.while_loop(
        lambda index, *_: index < count,
        body,
        (
            tf.constant(0),
            carry,
            slices,
            [tf.TensorArray(each.dtype, count, element_shape=each.shape[1:]) for each in collected],
        ),
        # XLA differentiates a loop only if it knows how long it can be.
        maximum_iterations=count,
    )
    return carry, [each.stack() for each in results]


def _eager_loop(step: Step, carry: Tensor, stacked: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    import tensorflow as tf

    collected = []
    for slices in zip(*map(tf.unstack, stacked), strict=True):
        carry, values = step(carry, list(slices))
        collected.append(values)
    return carry, [tf.stack(each) for each in zip(*collected, strict=True)]
