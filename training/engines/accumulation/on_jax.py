"""Steps of several micro-batches on JAX."""

from __future__ import annotations

from typing import Any

import jax
import keras
from jax import numpy as jnp

from training.engines.accumulation import AccumulatingModel


@keras.saving.register_keras_serializable(package="training")
class JaxModel(AccumulatingModel):
    """Model that takes the micro-batches of a batch on JAX."""

    def accumulating_step(self, state: tuple, data: Any) -> tuple:
        """Pass the micro-batches of a batch in turn, and change the weights once."""
        count = self.gradient_accumulation_steps
        weights, others, optimizer_variables, metrics = state

        def add(carry: tuple, part: Any) -> tuple:
            totals, others, metrics = carry
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
            gradients, (loss, y_pred, others, metrics) = jax.grad(
                self.compute_loss_and_updates, has_aux=True
            )(
                weights,
                others,
                metrics,
                x,
                y,
                sample_weight,
                training=True,
                optimizer_variables=optimizer_variables,
            )
            logs, metrics = self._update_metrics_variables(
                metrics, loss, x, y, y_pred, sample_weight
            )
            return (jax.tree.map(jnp.add, totals, gradients), others, metrics), logs

        # Devices that share a batch hold consecutive images, and so a part of every micro-batch.
        parts = jax.tree.map(
            lambda each: each.reshape(-1, count, *each.shape[1:]).swapaxes(0, 1), data
        )
        start = (jax.tree.map(jnp.zeros_like, weights), others, metrics)
        (totals, others, metrics), logs = jax.lax.scan(add, start, parts)
        weights, optimizer_variables = self.optimizer.stateless_apply(
            optimizer_variables, [total / count for total in totals], weights
        )
        last_logs = {name: values[-1] for name, values in logs.items()}
        return last_logs, (weights, others, optimizer_variables, metrics)

    def averaging_step(self, results: tuple) -> tuple:
        """Move the averages of the moving statistics, in the state that a step returns."""
        logs, (weights, others, optimizer_variables, metrics) = results
        variables = self.optimizer.variables
        state = [
            *zip(self.non_trainable_variables, others, strict=True),
            *zip(variables, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=state) as scope:
            super().averaging_step(logs)
        optimizer_variables = [scope.get_current_value(each) for each in variables]
        return logs, (weights, others, optimizer_variables, metrics)
