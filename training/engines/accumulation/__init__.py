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


class AccumulatingModel(keras.Model):
    """Model whose training step may take its batch in parts.

    Attributes:
        gradient_accumulation_steps: Number of micro-batches, which divides every batch.
    """

    gradient_accumulation_steps = 1

    def train_step(self, *arguments: Any) -> Any:
        """Train on a batch: the last argument, which on JAX follows the state."""
        if self.gradient_accumulation_steps == 1:
            return super().train_step(*arguments)
        return self.accumulating_step(*arguments)

    def accumulating_step(self, *arguments: Any) -> Any:
        """Pass the micro-batches of a batch in turn, and change the weights once.

        Args:
            *arguments: Those of `train_step`.

        Returns:
            What `train_step` returns.
        """
        raise NotImplementedError
