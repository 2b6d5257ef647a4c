"""Oracles that give many candidates a part of the training, and continue the best of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial
from keras_tuner.oracles import HyperbandOracle
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from keras_preact.tuning.constrained import ENDED, Constrained
from keras_preact.tuning.hypermodel import PreActHyperModel

# Results without which a process has nothing to learn from.
LEAST_SHOWN = 3
# Standard deviations by which a candidate's expected result may be exceeded.
CONFIDENCE = 1.0


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

    def update_trial(self, trial_id: str, metrics: dict[str, Any], step: int = 0) -> Trial:
        """Note what a trial reports.

        Raises:
            keras_tuner.errors.FatalValueError: If the metric that trials are continued by is not
                among it. It ends the search: no trial would have it.
        """
        trial = super().update_trial(trial_id, metrics, step)
        if not trial.metrics.exists(self.promote_by.name):
            raise keras_tuner.errors.FatalValueError(
                f"`promote_by` must be a metric that trials report: {', '.join(metrics)}. "
                f"Received: {self.promote_by.name!r}"
            )
        return trial

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
        ended = [trial for trial in waiting if trial.status in ENDED]
        completed = [trial for trial in ended if trial.status == "COMPLETED"]
        left_out = self._places(bracket, rung - 1) - bracket["sizes"][rung]
        if not completed or len(ended) <= left_out or len(taken) == self._places(bracket, rung):
            return None
        return max(completed, key=self._standing)

    def continuable(self) -> set[str]:
        """Return the completed trials that may still be continued, if the search goes on."""
        return {
            trial.trial_id
            for bracket in self._brackets
            for rung in range(1, len(bracket["rounds"]))
            for trial in self._may_be_promoted(bracket, rung)
        }

    def _may_be_promoted(self, bracket: dict[str, Any], rung: int) -> list[Trial]:
        """Return the best of the rung below, one for each place that is left in a rung."""
        taken = [entry["past_id"] for entry in bracket["rounds"][rung]]
        below = [self.trials[entry["id"]] for entry in bracket["rounds"][rung - 1]]
        waiting = [
            trial for trial in below if trial.status == "COMPLETED" and trial.trial_id not in taken
        ]
        places = self._places(bracket, rung) - len(taken)
        return sorted(waiting, key=self._standing, reverse=True)[:places]

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


class BayesianHalving(SuccessiveHalving):
    """Successive halving, most of whose candidates are proposed by what its first rung has shown.

    So does BOHB (arXiv:1807.01774) in Hyperband; here the model is a Gaussian process, as in
    MOBSTER (arXiv:2003.10865). The first third of the candidates are drawn at random.

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        **options: Those of `SuccessiveHalving`.
    """

    def _random_values(self) -> dict[str, Any] | None:
        """Return a new candidate of which much may be expected; None if there is none left."""
        begun = list(filter(_is_begun, self.trials.values()))
        shown = list(filter(_is_begun, self._learnable(self._standing)))
        if len(begun) < self._sizes[0] / 3 or len(shown) < LEAST_SHOWN:
            return super()._random_values()
        drawn = self._pool()
        if not drawn:
            return None
        tried = [self._vector(each.hyperparameters.values) for each in shown]
        process = _gaussian_process(tried, [self._standing(each) for each in shown], self.seed)
        mean, deviation = process.predict(list(map(self._vector, drawn)), return_std=True)
        return self._first(drawn[place] for place in np.argsort(-(mean + CONFIDENCE * deviation)))


def _is_begun(trial: Trial) -> bool:
    """Return whether a trial began a candidate, instead of continuing one."""
    return not trial.hyperparameters.values.get("tuner/initial_epoch")


def _gaussian_process(
    tried: Sequence[Sequence[float]], results: Sequence[float], seed: int
) -> GaussianProcessRegressor:
    """Fit a process that learns how far each hyperparameter matters, and how noisy results are."""
    # At the upper bound a hyperparameter, which lies in 0..1, hardly matters.
    scales = Matern(np.ones(len(tried[0])), (0.1, 10.0), nu=2.5)
    kernel = scales + WhiteKernel(0.1, (1e-3, 1.0))
    process = GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=2, random_state=seed
    )
    with warnings.catch_warnings():
        # Many do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(tried, results)


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
