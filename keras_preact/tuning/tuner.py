"""`OracleTuner`: a tuner of KerasTuner's for every oracle of this package."""

from __future__ import annotations

from typing import Any

import keras_tuner

from keras_preact.tuning.hypermodel import PreActHyperModel


class OracleTuner(keras_tuner.Hyperband):
    """Tuner that trains each trial as far as its oracle wants it.

    Trials of Hyperband and of halving get the epochs of their rung, and continued ones begin with
    the weights of the best epoch before, as those of `keras_tuner.Hyperband` do. Other trials get
    the epochs that `search` is given.

    Args:
        oracle: From `make_oracle`.
        hypermodel: Builds the nets.
        **options: Those of `keras_tuner.Tuner`, such as `directory` and `project_name`.
    """

    def __init__(
        self, oracle: keras_tuner.Oracle, hypermodel: PreActHyperModel, **options: Any
    ) -> None:
        # Hyperband's own would make another oracle.
        keras_tuner.Tuner.__init__(self, oracle, hypermodel, **options)
