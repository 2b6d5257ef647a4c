"""Oracles, which propose trials: those of KerasTuner, kept to the candidates that may be built.

KerasTuner's own have no limits: a model that costs too much is built first, and is then a
failed trial (keras-team/keras-tuner#989). Here a proposal is checked before it becomes a trial.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle

from keras_preact.files import replacing, write_json
from keras_preact.tuning.candidates import CHANNELS
from keras_preact.tuning.hypermodel import PreActHyperModel

# Draws for a proposal. If none is a new candidate, the space counts as exhausted; KerasTuner's 20
# would end a search of a small space long before (keras-team/keras-tuner#35).
DRAWS = 20_000
# Candidates that a Bayesian search chooses from.
POOL = 1_000

# Metrics that are known here, and the direction in which each is better.
OBJECTIVES = {"val_accuracy": "max", "val_loss": "min", "accuracy": "max", "loss": "min"}

_ENDED = ("COMPLETED", "FAILED")


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
        name: `"random"`; `"bayesian"`, a Gaussian process; `"hyperband"` (arXiv:1603.06560); or
            `"halving"`, one bracket of successive halving (arXiv:1502.07943). The last two give
            a trial some of the epochs and continue the best of them.
        hypermodel: Holds the hyperparameters, and the limits that every proposal keeps to.
        objective: `val_accuracy`, `val_loss`, `accuracy`, `loss`, or any other with its direction.
        max_trials: Most trials. With `hyperband` and `halving`, continuing one is a trial as well:
            Hyperband runs its brackets over and over until there are so many, halving begins with
            as many candidates as lead to no more than that.
        max_epochs: Epochs of a trial that goes all the way.
        factor: One of how many is continued, with that many times the epochs.
        promote_by: Metric by which `hyperband` and `halving` choose what is continued: any that the
            trials report; the objective by default. `accuracy` and `loss`, those of the training,
            tell more after few epochs than held-out images do (arXiv:2006.04492).
        seed: Decides what is proposed.
        max_retries_per_trial: How often a trial that crashed is tried again.
        max_consecutive_failed_trials: Failed trials in a row that end the search.

    Returns:
        The oracle, for any tuner of KerasTuner's.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if name not in ORACLES:
        raise ValueError(f"`name` must be one of {', '.join(ORACLES)}. Received: {name!r}")
    limits = {"max_trials": (max_trials, 1), "max_epochs": (max_epochs, 1), "factor": (factor, 2)}
    for argument, (value, least) in limits.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(
                f"`{argument}` must be a whole number of at least {least}. Received: {value!r}"
            )
    rungs: dict[str, Any] = {}
    if issubclass(ORACLES[name], Rungs):
        promoted_by = _objective("promote_by", promote_by) if promote_by else None
        rungs = {"max_epochs": max_epochs, "factor": factor, "promote_by": promoted_by}
    elif promote_by:
        raise ValueError(f"`promote_by` is for hyperband and halving. Received: name={name!r}")
    return ORACLES[name](
        hypermodel,
        max_trials=max_trials,
        objective=_objective("objective", objective),
        # KerasTuner takes 0 for no seed.
        seed=seed + 1,
        max_retries_per_trial=max_retries_per_trial,
        max_consecutive_failed_trials=max_consecutive_failed_trials,
        **rungs,
    )


def _objective(argument: str, value: str | keras_tuner.Objective) -> keras_tuner.Objective:
    if isinstance(value, keras_tuner.Objective):
        return value
    if value not in OBJECTIVES:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(OBJECTIVES)}, or a `keras_tuner.Objective`. "
            f"Received: {value!r}"
        )
    return keras_tuner.Objective(value, OBJECTIVES[value])


class Constrained(keras_tuner.Oracle):
    """Base of all oracles here: they keep to the constraints, and survive being killed.

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        **options: Those of KerasTuner's oracle.
    """

    def __init__(self, hypermodel: PreActHyperModel, **options: Any) -> None:
        self.candidates = hypermodel.candidates
        super().__init__(hyperparameters=hypermodel.hyperparameters(), **options)

    def _drawn(self) -> Iterator[dict[str, Any]]:
        """Yield new candidates that seem to keep to the limits, among so many drawn at random."""
        for _ in range(DRAWS):
            draw = random.Random(self._seed_state)
            self._seed_state += 1
            values = {hp.name: hp.prob_to_value(draw.random()) for hp in self.hyperparameters.space}
            # To fill a budget takes a while, and hardly any candidate cannot.
            seems_to_hold = self.candidates.constraints.fills or self.candidates.holds(values)
            if seems_to_hold and not self._duplicate(values):
                yield values

    def _random_values(self) -> dict[str, Any] | None:
        """Return a new candidate, or None if there seems to be none left."""
        return self._first(self._drawn())

    def _first(self, drawn: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the first candidate that keeps to the limits, with the widths that it then has."""
        holding = (values for values in drawn if self.candidates.holds(values))
        return next(map(self.candidates.completed, holding), None)

    def _compute_values_hash(self, values: dict[str, Any]) -> str:
        # The widths follow from the rest.
        return super()._compute_values_hash(
            {name: value for name, value in values.items() if name != CHANNELS}
        )

    def _retry(self, trial: Any) -> bool:
        retried = super()._retry(trial)
        if retried:
            # KerasTuner would take those of the failed run for the new one's.
            trial.metrics = type(trial.metrics)()
        return retried

    def save(self) -> None:
        """Write the state, whole or not at all."""
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        path = os.path.join(self._get_trial_dir(trial.trial_id), "trial.json")
        with replacing(path) as partial:
            trial.save(str(partial))

    def reload(self) -> None:
        """Go on from the files: finished trials stay finished, the others are run again.

        A trial's file is written before the oracle's. Where a process was killed in between, what
        the trial's says counts if it has ended; if it has just begun, it is proposed again.
        """
        # KerasTuner finds them by a pattern, which a name such as "runs [1]" would be part of.
        for path in Path(self._project_dir).glob("trial_*/trial.json"):
            trial = Trial.load(str(path))
            self.trials[trial.trial_id] = trial
        super().reload()
        self.trials = {each: self.trials[each] for each in self.start_order}
        ended = [each for each in self._retry_queue if self.trials[each].status in _ENDED]
        self._retry_queue = [each for each in self._retry_queue if each not in ended]
        # Killed after the oracle's file was written, it is in there already.
        self.end_order += [each for each in ended if each not in self.end_order]


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
        completed = [each for each in self.trials.values() if each.status == "COMPLETED"]
        if len(completed) < self.num_initial_points:
            return self._random_populate_space()
        drawn = list(itertools.islice(self._drawn(), POOL))
        if not drawn:
            return {"status": "STOPPED", "values": None}
        self.gpr.fit(*self._vectorize_trials())
        mean, deviation = self.gpr.predict(np.array(list(map(self._vector, drawn))), True)
        values = self._first(drawn[place] for place in np.argsort(mean - self.beta * deviation))
        return {"status": "RUNNING" if values else "STOPPED", "values": values}

    def _vector(self, values: dict[str, Any]) -> list[float]:
        return [hp.value_to_prob(values[hp.name]) for hp in self._nonfixed_space()]


class Rungs(Constrained, HyperbandOracle):
    """Brackets of rungs: the best trials of each rung are continued in the next.

    It differs from KerasTuner's where not all goes well:

    - A failed trial counts as the worst of its rung. KerasTuner leaves it out, so that fewer are
      continued: with a rung of 9 and 3 failures, none.
    - Where the space has no more candidates, the trials that there are go on. KerasTuner ends the
      search (keras-team/keras-tuner#676).

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        promote_by: Metric by which trials are continued; None for the objective.
        **options: Those of KerasTuner's oracle.
    """

    def __init__(
        self,
        hypermodel: PreActHyperModel,
        promote_by: keras_tuner.Objective | None = None,
        **options: Any,
    ) -> None:
        super().__init__(hypermodel, **options)
        self.promote_by = promote_by or self.objective

    def _start_new_bracket(self) -> None:
        super()._start_new_bracket()
        bracket = self._brackets[-1]
        rungs = range(len(bracket["rounds"]))
        bracket["sizes"] = [self._get_size(bracket["bracket_num"], rung) for rung in rungs]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose a candidate, or to continue a trial."""
        self._remove_completed_brackets()
        for bracket in self._brackets:
            response = self._new_candidate(trial_id, bracket) or self._promotion(trial_id, bracket)
            if response:
                return response
        if self._more_brackets():
            self._increment_bracket_num()
            self._start_new_bracket()
            return self.populate_space(trial_id)
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED"}

    def _new_candidate(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any] | None:
        """Return a candidate for the first rung, if there is room and one is left."""
        first = bracket["rounds"][0]
        if len(first) < bracket["sizes"][0]:
            response = self._random_trial(trial_id, bracket)
            if response["status"] == "RUNNING":
                return response
            bracket["sizes"][0] = len(first)
        return None

    def _promotion(self, trial_id: str, bracket: dict[str, Any]) -> dict[str, Any] | None:
        """Return a trial to continue, if one is sure to be among the best of its rung."""
        number = bracket["bracket_num"]
        for rung in range(1, len(bracket["rounds"])):
            best = self._best_to_promote(bracket, rung)
            if best is None:
                continue
            bracket["rounds"][rung].append({"past_id": best.trial_id, "id": trial_id})
            values = {
                **best.hyperparameters.values,
                "tuner/trial_id": best.trial_id,
                "tuner/epochs": self._get_epochs(number, rung),
                "tuner/initial_epoch": self._get_epochs(number, rung - 1),
                "tuner/bracket": number,
                "tuner/round": rung,
            }
            return {"status": "RUNNING", "values": values}
        return None

    def _best_to_promote(self, bracket: dict[str, Any], rung: int) -> Any | None:
        """Return the best waiting trial of the rung below, once no later one can replace it."""
        taken = [entry["past_id"] for entry in bracket["rounds"][rung]]
        waiting = [
            self.trials[entry["id"]]
            for entry in bracket["rounds"][rung - 1]
            if entry["id"] not in taken
        ]
        ended = [trial for trial in waiting if trial.status in _ENDED]
        completed = [trial for trial in ended if trial.status == "COMPLETED"]
        left_out = self._places(bracket, rung - 1) - bracket["sizes"][rung]
        if not completed or len(ended) <= left_out or len(taken) == self._places(bracket, rung):
            return None
        return max(completed, key=self._standing)

    def _standing(self, trial: Trial) -> float:
        """Return the number by which a trial is continued: more is better, NaN the worst."""
        value = trial.metrics.get_best_value(self.promote_by.name)
        if math.isnan(value):
            return -math.inf
        return value if self.promote_by.direction == "max" else -value

    def _places(self, bracket: dict[str, Any], rung: int) -> int:
        """Return the largest number of trials that a rung can still have."""
        if rung == 0:
            return bracket["sizes"][0]
        below = [self.trials[entry["id"]] for entry in bracket["rounds"][rung - 1]]
        failed = sum(trial.status == "FAILED" for trial in below)
        return min(bracket["sizes"][rung], self._places(bracket, rung - 1) - failed)

    def _remove_completed_brackets(self) -> None:
        self._brackets = [
            bracket
            for bracket in self._brackets
            if len(bracket["rounds"][-1]) < self._places(bracket, len(bracket["rounds"]) - 1)
        ]

    def _more_brackets(self) -> bool:
        """Return whether another bracket follows those under way."""
        raise NotImplementedError


class Hyperband(Rungs):
    """Brackets that begin with many candidates and few epochs, then the other way round.

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        max_trials: Most trials, promotions counted. The brackets follow each other so often.
        **options: Those of KerasTuner's oracle.
    """

    def __init__(
        self,
        hypermodel: PreActHyperModel,
        max_trials: int,
        **options: Any,
    ) -> None:
        super().__init__(hypermodel, **options)
        self.max_trials = max_trials
        in_all_brackets = sum(
            self._get_size(bracket, rung)
            for bracket in range(self._get_num_brackets())
            for rung in range(self._get_num_rounds(bracket))
        )
        self.hyperband_iterations = math.ceil(max_trials / in_all_brackets)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what was done; how much is to be done, the arguments say."""
        super().set_state({**state, "hyperband_iterations": self.hyperband_iterations})

    def _more_brackets(self) -> bool:
        return self._current_bracket > 0 or (
            self._current_iteration + 1 < self.hyperband_iterations
        )


class SuccessiveHalving(Rungs):
    """One bracket, as large as `max_trials` allows.

    A search that goes on with a larger `max_trials` has one more bracket, of the trials added.

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        max_trials: Most trials, promotions counted.
        max_epochs: Epochs of the last rung.
        factor: One of how many is continued.
        **options: Those of KerasTuner's oracle.
    """

    def __init__(
        self,
        hypermodel: PreActHyperModel,
        max_trials: int,
        max_epochs: int,
        factor: int,
        **options: Any,
    ) -> None:
        # Trials that the brackets begun so far were planned for.
        self._planned = 0
        self._sizes = halving_sizes(max_trials, max_epochs, factor)
        super().__init__(hypermodel, max_epochs=max_epochs, factor=factor, **options)
        self.max_trials = self._planned = max_trials

    def get_state(self) -> dict[str, Any]:
        """Return what was done."""
        return {**super().get_state(), "planned": self._planned}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what was done; how much is to be done, the arguments say."""
        super().set_state(state)
        self._planned = state.get("planned", self.max_trials)

    def _increment_bracket_num(self) -> None:
        added = self.max_trials - self._planned
        self._sizes = halving_sizes(added, self.max_epochs, self.factor)
        self._current_bracket = self._get_num_brackets() - 1
        self._planned = self.max_trials

    def _get_num_brackets(self) -> int:
        # KerasTuner begins with the bracket of the most rungs.
        return len(self._sizes)

    def _get_size(self, bracket_num: int, round_num: int) -> int:
        return self._sizes[round_num]

    def _more_brackets(self) -> bool:
        return self._planned < self.max_trials


def halving_sizes(max_trials: int, max_epochs: int, factor: int) -> list[int]:
    """Return the number of trials in each rung of a bracket.

    Args:
        max_trials: Most trials of all rungs together.
        max_epochs: Epochs of the last rung.
        factor: Divisor of the number of trials from rung to rung; the result is rounded down.

    Returns:
        The sizes for the most candidates possible. Of a rung of one trial no other follows, nor
        do more than leave an epoch to the first.
    """
    halvings = math.floor(round(math.log(max_epochs, factor), 9))

    def sizes(candidates: int) -> list[int]:
        rungs = (candidates // factor**rung for rung in range(halvings + 1))
        return [size for size in rungs if size]

    return max(
        (sizes(count) for count in range(1, max_trials + 1) if sum(sizes(count)) <= max_trials),
        key=sum,
    )


ORACLES: dict[str, type[Constrained]] = {
    "random": Random,
    "bayesian": Bayesian,
    "hyperband": Hyperband,
    "halving": SuccessiveHalving,
}
