"""Steps of several micro-batches on TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from training.engines.accumulation import AccumulatingModel


@keras.saving.register_keras_serializable(package="training")
class TensorFlowModel(AccumulatingModel):
    """Model that takes the micro-batches of a batch on TensorFlow."""

    def accumulating_step(self, data: Any) -> Any:
        """Pass the micro-batches of a batch in turn, and change the weights once."""
        count = self.gradient_accumulation_steps
        weights = self.trainable_weights
        # The first axis counts within a micro-batch, so that a replica's images stay together.
        parts = keras.tree.map_structure(
            lambda each: tf.reshape(each, [-1, count, *each.shape[1:]]), data
        )

        def add(index: tf.Tensor, *totals: tf.Tensor) -> tuple[tf.Tensor, ...]:
            part = keras.tree.map_structure(lambda each: tf.gather(each, index, axis=1), parts)
            gradients = self._gradients(part, weights)
            return index + 1, *map(tf.add, totals, gradients)

        # A loop, of which one pass runs at a time: side by side they would hold all maps.
        _, *totals = tf.while_loop(
            lambda index, *totals: index < count,
            add,
            (tf.constant(0), *(tf.zeros_like(weight.value) for weight in weights)),
            parallel_iterations=1,
        )
        gradients = [total / count for total in totals]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self.get_metrics_result()

    def _gradients(self, data: Any, weights: list[keras.Variable]) -> list[tf.Tensor]:
        """Return the gradients of one micro-batch, and add it to the metrics."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            scaled = self.optimizer.scale_loss(loss)
        # The loss of a replica is its share of the mean over all replicas.
        whole = loss * self.distribute_strategy.num_replicas_in_sync
        self._loss_tracker.update_state(whole, sample_weight=tf.shape(y)[0])
        self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return tape.gradient(scaled, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
