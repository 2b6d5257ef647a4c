"""Base of the oracles, which keeps their proposals to the candidates that may be built.

KerasTuner's own have no limits: a model that costs too much is built first, and is then a
failed trial (keras-team/keras-tuner#989). Here a proposal is checked before it becomes a trial.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.hyperparameters import Fixed, HyperParameter
from keras_tuner.engine.trial import Trial

from keras_preact.files import read_json, replacing, write_json
from keras_preact.tuning.candidates import CHANNELS
from keras_preact.tuning.hypermodel import PreActHyperModel

# Draws for a proposal. If none is a new candidate, the space counts as exhausted; KerasTuner's 20
# would end a search of a small space long before (keras-team/keras-tuner#35).
DRAWS = 20_000
# Candidates that a model of the results chooses from.
POOL = 1_000

# Hyperparameters of KerasTuner's own begin so.
INTERNAL = "tuner/"
# Statuses of a trial that is over.
ENDED = ("COMPLETED", "FAILED")


class Constrained(keras_tuner.Oracle):
    """Base of all oracles here: they keep to the constraints, and survive being killed.

    Args:
        hypermodel: Holds the hyperparameters and the limits.
        **options: Those of KerasTuner's oracle.
    """

    def __init__(self, hypermodel: PreActHyperModel, **options: Any) -> None:
        self.candidates = hypermodel.candidates
        self._of_the_net = {CHANNELS, *hypermodel.candidates.hyperparameters().values}
        own = hypermodel.hyperparameters()
        self._own = list(own.values)
        super().__init__(hyperparameters=own, **options)
        objective = [self.objective.name, self.objective.direction]
        about = {"oracle": type(self).__name__, "objective": objective, **hypermodel.description()}
        # As a file has it.
        self._about = json.loads(json.dumps(about))

    def _drawn(self) -> Iterator[dict[str, Any]]:
        """Yield new candidates that seem to keep to the limits, among so many drawn at random."""
        for _ in range(DRAWS):
            draw = random.Random(self._seed_state)
            self._seed_state += 1
            values: dict[str, Any] = {}
            # A condition is on a hyperparameter before.
            for hp in self.hyperparameters.space:
                value = hp.prob_to_value(draw.random())
                if _is_active(hp, values):
                    values[hp.name] = value
            # To fill a budget takes a while, and hardly any candidate cannot.
            seems_to_hold = self.candidates.constraints.fills or self.candidates.holds(values)
            if seems_to_hold and not self._duplicate(values):
                yield values

    def _pool(self) -> list[dict[str, Any]]:
        """Return new candidates for a model of the results to choose from."""
        return list(itertools.islice(self._drawn(), POOL))

    def _vector(self, values: dict[str, Any]) -> list[float]:
        """Return a candidate as a point of the cube whose axes are the hyperparameters."""
        # As in KerasTuner's own vectors. What a build has added, earlier trials do not have.
        return [
            hp.value_to_prob(
                values[hp.name] if hp.name in values and _is_active(hp, values) else hp.default
            )
            for hp in self.hyperparameters.space
            if not isinstance(hp, Fixed)
        ]

    def _learnable(self, result: Callable[[Trial], float]) -> list[Trial]:
        """Return the completed trials whose result is a finite number.

        A process cannot learn from any other, such as the loss of a net that diverged.

        Args:
            result: Number that a model of the results is to predict.
        """
        completed = [each for each in self.trials.values() if each.status == "COMPLETED"]
        return [each for each in completed if math.isfinite(result(each))]

    def _random_values(self) -> dict[str, Any] | None:
        """Return a new candidate, or None if there seems to be none left."""
        return self._first(self._drawn())

    def _first(self, drawn: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the first new net that keeps to the limits, with the widths that it then has."""
        tried = {self._training_of(each.hyperparameters.values) for each in self.trials.values()}
        for values in drawn:
            if self.candidates.holds(values) and self._training_of(values) not in tried:
                return self.candidates.completed(values)
        return None

    def _training_of(self, values: dict[str, Any]) -> str:
        """Return the same text for all values that mean one net, trained alike."""
        own = own_values(values)
        rest = {name: own[name] for name in own if name not in self._of_the_net}
        return str(sorted({**rest, **self.candidates.fields(values)}.items()))

    def _compute_values_hash(self, values: dict[str, Any]) -> str:
        # The widths follow from the rest, and a candidate in another rung is none that is new.
        own = own_values(values)
        return super()._compute_values_hash({name: own[name] for name in own if name != CHANNELS})

    def _retry(self, trial: Any) -> bool:
        retried = super()._retry(trial)
        if retried:
            # KerasTuner would take those of the failed run for the new one's.
            trial.metrics = type(trial.metrics)()
        return retried

    def get_state(self) -> dict[str, Any]:
        """Return what was done, and of which search it is."""
        return {**super().get_state(), "about": self._about}

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

        Raises:
            OSError: If a file is missing.
            ValueError: If one is damaged, or they are of another search. The message names it.
        """
        path = Path(self._get_oracle_fname())
        state = read_json(path)
        with _damaged(path):
            begun = list(state["start_order"])
            about = self._about_state(state)
        self._check_search(about)
        # KerasTuner reads whatever lies in folders of such names, and not where the path of the
        # search, such as "runs [1]", is a pattern too.
        self.trials = {each: self._read_trial(each) for each in begun}
        with _damaged(path):
            self.set_state(state)
        self._retry_queue += [trial.trial_id for trial in self.ongoing_trials.values()]
        self.ongoing_trials = {}
        ended = [each for each in self._retry_queue if self.trials[each].status in ENDED]
        self._retry_queue = [each for each in self._retry_queue if each not in ended]
        # Killed after the oracle's file was written, it is in there already.
        self.end_order += [each for each in ended if each not in self.end_order]

    def _about_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return of which search a state is; earlier versions noted the hyperparameters only."""
        space = {
            each["config"]["name"]: each["config"] for each in state["hyperparameters"]["space"]
        }
        values = {name: space.get(name, {}).get("values") for name in self._own}
        return state.get("about", {**self._about, **values})

    def _check_search(self, about: dict[str, Any]) -> None:
        """Check that the search in the folder is this one.

        Args:
            about: What the folder holds.

        Raises:
            ValueError: If its values stand for other nets.
        """
        differing = [
            name for name in {**about, **self._about} if about.get(name) != self._about.get(name)
        ]
        if differing:
            there, here = (
                ", ".join(f"{name}={search.get(name)}" for name in differing)
                for search in (about, self._about)
            )
            raise ValueError(
                f"{self._project_dir} holds another search, with {there}. Received: {here}. Give "
                "the tuner another `project_name`, or `overwrite=True` to remove that search."
            )

    def _read_trial(self, trial_id: str) -> Trial:
        path = Path(self._project_dir) / f"trial_{trial_id}" / "trial.json"
        state = read_json(path)
        with _damaged(path):
            return Trial.from_state(state)


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Name the file whose content is not what KerasTuner wrote."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from error


def _is_active(hp: HyperParameter, values: Mapping[str, Any]) -> bool:
    """Return whether a candidate has a hyperparameter, by the conditions of its scope."""
    return all(condition.is_active(values) for condition in hp.conditions)


def own_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a trial without those that KerasTuner adds."""
    return {name: value for name, value in values.items() if not name.startswith(INTERNAL)}
