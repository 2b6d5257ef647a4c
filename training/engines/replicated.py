"""Model that `fit` trains under any strategy of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from training.engines.accumulation.on_tensorflow import TensorFlowModel


class ReplicatedModel(TensorFlowModel):
    """Model whose steps run on every replica and return the metrics of this worker.

    In Keras 3.15 `fit` fails on several workers (https://github.com/keras-team/keras/issues/20585):
    it reduces the logs of a step along an axis that scalars lack, and builds the model on the
    values of several replicas. Here the logs of a step are the mean over the replicas of this
    worker; those of an epoch are Keras's, over all workers. A model that is made outside the scope
    of its strategy, of layers that were made inside, is not built anew, if it is trained inside.

    Attributes:
        steps_of_execution: Steps of the next execution in training, where it has fewer than
            `steps_per_execution`, as the last of an epoch may have; 0 for no fewer.
    """

    steps_of_execution = 0

    def make_train_function(self, force: bool = False) -> Any:
        """Make the function that trains on the next batches of an iterator."""
        if self.train_function is None or force:
            self.train_function = self._function(
                self.train_step, lambda: self.steps_of_execution or self.steps_per_execution
            )
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Make the function that evaluates the next batches of an iterator."""
        if self.test_function is None or force:
            self.test_function = self._function(
                self._test_step_unless_empty, lambda: self.steps_per_execution
            )
        return self.test_function

    def _test_step_unless_empty(self, batch: Any) -> None:
        """Leave out the empty parts of the last batch, on which convolutions fail on a CPU."""

        def do() -> tf.Tensor:
            self.test_step(batch)
            return tf.constant(True)

        tf.cond(tf.shape(batch[0])[0] > 0, do, lambda: tf.constant(False))

    def _function(
        self, step: Callable[[Any], Any], count: Callable[[], int]
    ) -> Callable[[Any], dict[str, tf.Tensor]]:
        strategy = self.distribute_strategy

        @tf.function(reduce_retracing=True, jit_compile=self.jit_compile, autograph=False)
        def one(batch: Any) -> None:
            strategy.run(step, args=(batch,))

        def next_unless_at_end(iterator: Any) -> tf.Tensor:
            batch = iterator.get_next_as_optional()

            def do() -> tf.Tensor:
                one(batch.get_value())
                return tf.constant(True)

            return tf.cond(batch.has_value(), do, lambda: tf.constant(False))

        def mean(name: str, values: Any) -> tf.Tensor:
            return tf.reduce_mean(strategy.experimental_local_results(values), axis=0, name=name)

        @tf.function(reduce_retracing=True, autograph=False)
        def several(iterator: Any, steps: Any) -> dict[str, tf.Tensor]:
            one(iterator.get_next())
            if steps is not None:
                tf.while_loop(
                    lambda done, more: more & (done < steps),
                    lambda done, more: (done + 1, next_unless_at_end(iterator)),
                    (tf.constant(1), tf.constant(True)),
                    parallel_iterations=1,
                )
            logs = strategy.run(self.get_metrics_result)
            return {name: mean(name, values) for name, values in logs.items()}

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            if not hasattr(iterator, "get_next"):
                # The one batch of `train_on_batch`.
                batch = keras.utils.pack_x_y_sample_weight(*next(iterator))
                iterator = iter(tf.data.Dataset.from_tensors(batch))
                return several(iterator, None)
            repeated = self.steps_per_execution > 1
            return several(iterator, tf.constant(count()) if repeated else None)

        return function
