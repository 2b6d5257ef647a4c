"""Training steps that add up the gradients of micro-batches, for each backend of Keras.

One step of `fit` takes a whole batch, passes its micro-batches through the net one after the other,
and changes the weights once, by the mean of their gradients. So the maps of one micro-batch are all
that memory holds. Every step is an update: schedules, moving averages of the weights, checkpoints
and callbacks count as they do without accumulation.

The `gradient_accumulation_steps` of Keras's optimizers makes every micro-batch a step. Its
learning-rate schedules and moving averages then move with every micro-batch, and a loss scale that
skips one shifts all later updates.

Every backend takes the same micro-batches: number `i` of `n` holds the images `i`, `i + n`,
`i + 2 n` and so on of the batch, so that several devices which share a batch share its
micro-batches alike. Batch norm takes the statistics of a micro-batch, as it does for any code that
accumulates gradients; other norms give what a whole batch gives.
"""

from __future__ import annotations

from typing import Any

import keras

from training.optimizer import averaged_statistics, unscaled


class AccumulatingModel(keras.Model):
    """Model whose training step may take its batch in parts, and averages moving statistics.

    Attributes:
        gradient_accumulation_steps: Number of micro-batches, which divides every batch.
    """

    gradient_accumulation_steps = 1

    def train_step(self, *arguments: Any) -> Any:
        """Train on a batch: the last argument, which on JAX follows the state."""
        whole = self.gradient_accumulation_steps == 1
        results = super().train_step(*arguments) if whole else self.accumulating_step(*arguments)
        return self.averaging_step(results) if averaged_statistics(self.optimizer) else results

    def accumulating_step(self, *arguments: Any) -> Any:
        """Pass the micro-batches of a batch in turn, and change the weights once.

        Args:
            *arguments: Those of `train_step`.

        Returns:
            What `train_step` returns.
        """
        raise NotImplementedError

    def averaging_step(self, results: Any) -> Any:
        """Move the averages of the moving statistics, which an optimizer does not see.

        Args:
            results: What `train_step` returns.

        Returns:
            The same; on JAX with the averages.
        """
        unscaled(self.optimizer).update_statistics()
        return results


def model_class() -> type[AccumulatingModel]:
    """Return the class of a model that trains on one device of Keras's backend."""
    # Each imports its backend only.
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from training.engines.accumulation.on_tensorflow import TensorFlowModel

        return TensorFlowModel
    if backend == "jax":
        from training.engines.accumulation.on_jax import JaxModel

        return JaxModel
    from training.engines.accumulation.on_torch import TorchModel

    return TorchModel
