"""Oracles, which propose trials: those of KerasTuner, kept to the candidates that may be built."""

from __future__ import annotations

from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.oracles import BayesianOptimizationOracle, RandomSearchOracle

from keras_preact.messages import did_you_mean
from keras_preact.spec.rules import whole_number
from keras_preact.tuning.constrained import Constrained
from keras_preact.tuning.hypermodel import PreActHyperModel
from keras_preact.tuning.rungs import BayesianHalving, Hyperband, Rungs, SuccessiveHalving

# Metrics that are known here, and the direction in which each is better.
OBJECTIVES = {"val_accuracy": "max", "val_loss": "min", "accuracy": "max", "loss": "min"}


class Random(Constrained, RandomSearchOracle):
    """Candidates drawn at random, each once."""


class Bayesian(Constrained, BayesianOptimizationOracle):
    """Oracle of candidates where a Gaussian process expects much, or knows little.

    The process and the acquisition function, a confidence bound, are KerasTuner's. KerasTuner looks
    for the best point of a cube and rounds it to a candidate, which may have been tried already or
    may be refused. Here candidates that may run are drawn at random, and the best of them is
    proposed, as in SMAC where hyperparameters are choices (Hutter et al., "Sequential Model-Based
    Optimization for General Algorithm Configuration", 2011, section 4.3).

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        max_trials: Most trials. The first quarter are drawn at random, or three for each
            hyperparameter where that is fewer.
        **options: Those of KerasTuner's oracle.
    """

    def __init__(
        self,
        hypermodel: PreActHyperModel,
        max_trials: int,
        **options: Any,
    ) -> None:
        dimensions = len(hypermodel.hyperparameters().space)
        super().__init__(
            hypermodel,
            max_trials=max_trials,
            num_initial_points=min(3 * dimensions, max(3, max_trials // 4)),
            **options,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose a candidate."""
        if len(self._learnable(lambda trial: trial.score)) < self.num_initial_points:
            return self._random_populate_space()
        drawn = self._pool()
        if not drawn:
            return {"status": "STOPPED", "values": None}
        # KerasTuner's own fit takes infinite results for 0, which may be the best.
        points, results = self._vectorize_trials()
        finite = np.isfinite(results)
        self.gpr.fit(points[finite], results[finite])
        mean, deviation = self.gpr.predict(np.array(list(map(self._vector, drawn))), True)
        values = self._first(drawn[place] for place in np.argsort(mean - self.beta * deviation))
        return {"status": "RUNNING" if values else "STOPPED", "values": values}


ORACLES: dict[str, type[Constrained]] = {
    "random": Random,
    "bayesian": Bayesian,
    "hyperband": Hyperband,
    "halving": SuccessiveHalving,
    "bayesian_halving": BayesianHalving,
}


def make_oracle(
    name: str,
    hypermodel: PreActHyperModel,
    objective: str | keras_tuner.Objective = "val_accuracy",
    *,
    max_trials: int,
    max_epochs: int,
    factor: int = 3,
    promote_by: str | keras_tuner.Objective | None = None,
    seed: int = 0,
    max_retries_per_trial: int = 0,
    max_consecutive_failed_trials: int = 3,
) -> keras_tuner.Oracle:
    """Make the oracle that proposes the trials of a search.

    Args:
        name: `"random"`; `"bayesian"`, a Gaussian process; `"hyperband"` (arXiv:1603.06560);
            `"halving"`, one bracket of successive halving (arXiv:1502.07943); or
            `"bayesian_halving"`, the same with candidates of a Gaussian process (as
            arXiv:1807.01774). The last three give a trial some of the epochs and continue the best.
        hypermodel: Holds the hyperparameters, and the limits that every proposal keeps to.
        objective: `val_accuracy`, `val_loss`, `accuracy`, `loss`, or any other with its direction.
        max_trials: Most trials. Continuing one is a trial as well: Hyperband runs its brackets over
            and over until there are so many, halving begins with as many candidates as lead to no
            more than that.
        max_epochs: Epochs of a trial that goes all the way.
        factor: One of how many is continued, with that many times the epochs.
        promote_by: Metric by which Hyperband and halving choose what is continued: any that the
            trials report; the objective by default. `accuracy` and `loss`, those of the training,
            tell more after few epochs than held-out images do (arXiv:2006.04492).
        seed: Decides what is proposed, from 0.
        max_retries_per_trial: How often a trial that crashed is tried again.
        max_consecutive_failed_trials: Failed trials in a row that end the search.

    Returns:
        The oracle, for `OracleTuner`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if name not in ORACLES:
        raise ValueError(
            f"`name` must be one of {', '.join(ORACLES)}. Received: {name!r}."
            f"{did_you_mean(str(name), ORACLES)}"
        )
    max_trials = whole_number(1).check("max_trials", max_trials)
    max_epochs = whole_number(1).check("max_epochs", max_epochs)
    factor = whole_number(2).check("factor", factor)
    # KerasTuner takes 0 for no seed.
    seed = whole_number(0).check("seed", seed) + 1
    retries = whole_number(0).check("max_retries_per_trial", max_retries_per_trial)
    failed = whole_number(1).check("max_consecutive_failed_trials", max_consecutive_failed_trials)
    rungs: dict[str, Any] = {}
    if issubclass(ORACLES[name], Rungs):
        promoted_by = _objective("promote_by", promote_by) if promote_by else None
        rungs = {"max_epochs": max_epochs, "factor": factor, "promote_by": promoted_by}
    elif promote_by:
        names = ", ".join(each for each, kind in ORACLES.items() if issubclass(kind, Rungs))
        raise ValueError(f"`promote_by` is for {names}, which continue trials. Received: {name!r}")
    return ORACLES[name](
        hypermodel,
        max_trials=max_trials,
        objective=_objective("objective", objective),
        seed=seed,
        max_retries_per_trial=retries,
        max_consecutive_failed_trials=failed,
        **rungs,
    )


def _objective(argument: str, value: str | keras_tuner.Objective) -> keras_tuner.Objective:
    if isinstance(value, keras_tuner.Objective):
        return value
    if not isinstance(value, str) or value not in OBJECTIVES:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(OBJECTIVES)}, or a `keras_tuner.Objective`. "
            f"Received: {value!r}"
        )
    return keras_tuner.Objective(value, OBJECTIVES[value])
