"""Steps of several micro-batches on torch."""

from __future__ import annotations

from typing import Any

import keras
import torch

from training.engines.accumulation import AccumulatingModel


@keras.saving.register_keras_serializable(package="training")
class TorchModel(AccumulatingModel):
    """Model that takes the micro-batches of a batch on torch."""

    def accumulating_step(self, data: Any) -> Any:
        """Pass the micro-batches of a batch in turn, and change the weights once."""
        count = self.gradient_accumulation_steps

        def part(index: int) -> Any:
            return keras.tree.map_structure(lambda each: each[index::count], data)

        self.zero_grad()
        for index in range(count):
            self._add_gradients(part(index))
        weights = self.trainable_weights
        gradients = [weight.value.grad for weight in weights]
        with torch.no_grad():
            self.optimizer.apply(gradients, weights)
        return self.get_metrics_result()

    def _add_gradients(self, data: Any) -> None:
        """Add up the gradients of one micro-batch, and add it to the metrics."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=True)
        loss = self.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
        )
        self._loss_tracker.update_state(loss, sample_weight=len(y))
        self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        # `backward` adds to the gradients that are there.
        (self.optimizer.scale_loss(loss) / self.gradient_accumulation_steps).backward()
