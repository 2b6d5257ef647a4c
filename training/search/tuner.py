"""`TrainingTuner`: every trial of a search is a process of `training.train`.

A trial that is killed, for instance for lack of memory, takes nothing else with it and frees all
that it occupied. Its recipe repeats it by hand.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine import base_tuner
from keras_tuner.engine.trial import Trial

from keras_preact.files import read_json
from keras_preact.tuning.constrained import INTERNAL, Constrained, own_values
from keras_preact.tuning.rungs import Rungs
from training import processes
from training.search.hypermodel import RecipeHyperModel
from training.search.ranking import PROMOTIONS
from training.search.trials import Record, SearchFolder, write_recipe

# Name of the process that holds the oracle, whether or not it runs the trials itself. KerasTuner
# goes on only from the files of that name, and takes a process for the chief by it.
CHIEF = "chief"
# Exit status of `training.train` by the signal that asked it to stop, beside a death by a signal.
_SIGNALS = {130: signal.SIGINT, 143: signal.SIGTERM, processes.PREEMPTED: signal.SIGTERM}
# Folder of the oracle's state in that of the search.
_STATE = "oracle"
# Seconds between two questions to an oracle that waits for trials under way.
_PATIENCE = 1.0


def worker_name(index: int) -> str:
    """Return the name of a worker, the first being 0; its replacement has the same."""
    return f"worker{index}"


@dataclass(frozen=True)
class Training:
    """Settings that the trainings of all trials share.

    Attributes:
        options: Options of `training.train`: the data, the devices.
        threads: Threads that each computes on; 0 for all cores.
    """

    options: Sequence[str]
    threads: int = 0


class TrainingTuner(base_tuner.BaseTuner):
    """Tuner that runs the trials of an oracle, each in a process.

    With KerasTuner's variables in the environment (`KERASTUNER_ORACLE_IP` and so on) it is the
    chief, which holds the oracle, or a worker.

    Args:
        oracle: From `make_oracle`.
        hypermodel: Makes a trial's recipe of its values.
        folder: Where everything goes.
        training: How trials are trained.
        workers: Number of workers; 0 if the trials run one at a time in this process.
        on_change: Called whenever a trial has begun or ended, with its record.
        wait_minutes: Longest time that a worker waits for a chief.
    """

    # The oracle of a chief; a `PatientClient` of a worker.
    oracle: Any

    def __init__(
        self,
        oracle: Constrained,
        hypermodel: RecipeHyperModel,
        folder: SearchFolder,
        training: Training,
        workers: int = 0,
        on_change: Callable[[Record], None] = lambda record: None,
        wait_minutes: float = processes.WAIT_MINUTES,
    ) -> None:
        self._net = hypermodel
        self._folder = folder
        self._training = training
        self._workers = workers
        self._on_change = on_change
        self._asked = -_PATIENCE
        if "KERASTUNER_ORACLE_IP" not in os.environ:
            os.environ["KERASTUNER_TUNER_ID"] = CHIEF
        # The oracle knows the space already.
        super().__init__(oracle, None, str(folder.output), _STATE)
        if self._is_worker():
            self.oracle = PatientClient(self.oracle, folder.ended, wait_minutes)
        else:
            self.oracle.verbose = 0

    def reload(self) -> None:
        """Go on from the files, and leave to the workers the trials that they are at.

        KerasTuner would hand those to whoever asks first, while the worker that outlived the chief
        is still at it.
        """
        # KerasTuner would not say which file is damaged.
        read_json(self._get_tuner_fname())
        super().reload()
        if self._is_worker():
            return
        # In the order in which they are to be retried, each once.
        waiting = list(dict.fromkeys(self.oracle._retry_queue))
        state = read_json(self._folder.output / _STATE / "oracle.json")
        names = {worker_name(index) for index in range(self._workers)}
        for name, trial in state["ongoing_trials"].items():
            if name in names and trial in waiting and trial not in state["retry_queue"]:
                waiting.remove(trial)
                self.oracle.ongoing_trials[name] = self.oracle.trials[trial]
                # KerasTuner's chief serves until these have heard that the search is over.
                self.oracle.tuner_ids.add(name)
        self.oracle._retry_queue = waiting

    def on_search_begin(self) -> None:
        """Make sure that a search killed in its first trial is found."""
        self.save()

    def pre_create_trial(self) -> None:
        """Wait a little, where the oracle was asked just now and had nothing to run."""
        time.sleep(max(0.0, self._asked + _PATIENCE - time.monotonic()))
        self._asked = time.monotonic()

    def run_trial(self, trial: Trial) -> dict[str, float]:
        """Train a trial's net as far as the oracle wants it.

        Args:
            trial: From the oracle.

        Returns:
            The results of its last epoch that trials are compared by.

        Raises:
            FailedTrialError: If the training failed: it would again.
            RuntimeError: If it was killed: it may be retried, and goes on from its checkpoint.
        """
        # KerasTuner's words about a trial whose worker was killed once it had reported.
        warnings.filterwarnings("ignore", "The use case of calling")
        record = self._begin(trial)
        started = time.monotonic()
        status = 0
        if record.epochs > len(self._folder.history(record)) and not self._folder.is_over(record):
            status = processes.run(
                self._command(record), self._folder.log(record.trial), self._training.threads
            )
        history = self._folder.history(record)
        record = record.replace(seconds=round(record.seconds + time.monotonic() - started, 1))
        if len(history) < record.epochs:
            if not self._folder.is_over(record):
                raise self._failure(record, status)
            record = record.replace(epochs=len(history))
        results = history[record.epochs - 1]
        self._note(record.replace(status="finished", results=results))
        return {name: results[name] for name in PROMOTIONS if name in results}

    def _begin(self, trial: Trial) -> Record:
        """Write a trial's recipe and record, or take them up again."""
        values = trial.hyperparameters.values
        record = self._folder.read(trial.trial_id) or self._new_record(trial.trial_id, values)
        attempt = {"worker": self.tuner_id, "after_epoch": self._trained(record)}
        record = record.replace(status="running", attempts=[*record.attempts, attempt], signal=0)
        self._note(record)
        write_recipe(self._folder.recipe(trial.trial_id), self._net.recipe(values))
        return record

    def _trained(self, record: Record) -> int:
        """Return the epochs that a trial need not train, and say so if their weights are gone."""
        trained = len(self._folder.history(record))
        goes_on = trained < record.epochs and not self._folder.is_over(record)
        if not (trained and goes_on) or self._folder.has_checkpoint(record):
            return trained
        print(f"The weights of {record.run} were removed: it is trained from its first epoch on.")
        return 0

    def _new_record(self, trial: str, values: dict[str, Any]) -> Record:
        cost = self._net.candidates.cost(values)
        run = f"trials/{trial}/run"
        if f"{INTERNAL}trial_id" in values:
            earlier = self._folder.read(values[f"{INTERNAL}trial_id"])
            if earlier is None:
                path = self._folder.record(values[f"{INTERNAL}trial_id"])
                raise keras_tuner.errors.FatalValueError(
                    f"{self._folder.output} is damaged: trial {trial} continues another, and there "
                    f"is no {path}."
                )
            run = earlier.run
        return Record(
            trial=trial,
            values=own_values(values),
            run=run,
            epochs=values.get(f"{INTERNAL}epochs", self._net.base.epochs),
            flops=cost.flops,
            parameters=cost.parameters,
        )

    def _command(self, record: Record) -> list[str]:
        return [
            *("training.train", "--recipe", str(self._folder.recipe(record.trial))),
            *("--output", str(self._folder.output / record.run)),
            *("--stop-after", str(record.epochs), *self._training.options),
        ]

    def _failure(self, record: Record, status: int) -> Exception:
        """Note why a trial has not come to its end."""
        log = self._folder.log(record.trial)
        number = max(0, -status) or _SIGNALS.get(status, 0)
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        message = f"Training ended early, {how}; {log}:\n{processes.last_lines(log, 12)}"
        self._note(record.replace(status="failed", message=message, signal=int(number)))
        if number or not status:
            return RuntimeError(message)
        return keras_tuner.errors.FailedTrialError(message)

    def _note(self, record: Record) -> None:
        self._folder.write(record)
        self._on_change(record)


def check_state(folder: SearchFolder) -> None:
    """Check that a search whose trials have begun has the state of its oracle.

    Without it KerasTuner would begin anew, with other values for trials of the same numbers.

    Args:
        folder: Of the search.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    for name in ("oracle", CHIEF):
        path = folder.output / _STATE / f"{name}.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder.output} is damaged: it has no {path}.")


def continuable(oracle: Rungs, folder: SearchFolder) -> set[str]:
    """Return the trials of a search that it, or one that extends it, may still continue.

    Args:
        oracle: Of the search. It takes up the state that is in the folder.
        folder: Of the search.
    """
    oracle._set_project_dir(str(folder.output), _STATE)
    oracle.reload()
    return oracle.continuable()


class SearchOver(Exception):
    """Reason why a worker need not wait for a chief: nothing is left to do."""


class PatientClient:
    """A worker's connection to the chief that outlives the chief.

    KerasTuner's waits for a chief that is not there yet, but fails if it dies while it is asked.
    To ask again does no harm: a worker that has a trial is given that trial, and a result
    reported again is the same one.

    Args:
        client: KerasTuner's `OracleClient`.
        over: Returns whether the search is over, so that no chief will come. `SearchOver` is
            raised then.
        minutes: Longest time to wait for a chief that is not there.
    """

    def __init__(self, client: Any, over: Callable[[], bool], minutes: float) -> None:
        self._client = client
        self._over = over
        self._minutes = minutes
        address = ":".join(os.environ[f"KERASTUNER_ORACLE_{name}"] for name in ("IP", "PORT"))
        self._chief = f"the chief at {address}"
        self._channel = grpc.insecure_channel(address)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not callable(value):
            return value

        def ask(*arguments: Any, **options: Any) -> Any:
            while True:
                processes.wait_for(self._missing, self._minutes)
                try:
                    return value(*arguments, **options)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    print("The chief is gone; waiting for another.", flush=True)

        return ask

    def _missing(self) -> str:
        """Return the chief, if it is not there; a look at one that is takes no time."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=_PATIENCE)
        except grpc.FutureTimeoutError:
            if self._over():
                raise SearchOver from None
            return self._chief
        return ""
