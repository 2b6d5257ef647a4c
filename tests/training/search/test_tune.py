"""The search as a command: its trials are processes, and it survives what becomes of them."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras_tuner
import pytest
from PIL import Image

from keras_preact.files import write_json
from keras_preact.tuning import make_oracle
from tests.forked import FORKS
from tests.training.paths import ROOT
from training import processes
from training.recipe import load_recipe
from training.run import read_run
from training.search import load_space, tuner
from training.search.ranking import leaderboard
from training.search.trials import SearchFolder, write_recipe
from training.search.tuner import CHIEF, Training, TrainingTuner
from training.sources import open_source
from training.train import main as train
from training.tune import check_folder, describe, main, parse_arguments

# An epoch is then still under way when its process is killed.
LONG = ("--epoch-steps", "2000")
SPACE = """
units = [1, 2]
channels = [8, 16]
"""


@pytest.fixture
def required(recipe, tmp_path) -> list[str]:
    """Return options that every search must have."""
    write_recipe(tmp_path / "tiny.toml", recipe)
    (tmp_path / "space.toml").write_text(SPACE)
    return [
        *("--recipe", str(tmp_path / "tiny.toml"), "--data", "digits"),
        *("--space", str(tmp_path / "space.toml"), "--output", str(tmp_path / "search")),
        *("--max-trials", "3"),
    ]


def _described(arguments: list[str]) -> dict:
    options, recipe = parse_arguments(arguments)
    return describe(options, recipe, load_space(options.space), open_source("digits", None))


def test_a_folder_of_another_search_is_refused_with_what_differs(required, tmp_path, capsys):
    (tmp_path / "search").mkdir()
    write_json(tmp_path / "search" / "search.json", _described(required))
    other = [*required, "--oracle", "random", "--max-flops", "3e5", "--learning-rate", "0.3"]
    assert main(other) == 2
    error = capsys.readouterr().err
    assert "holds another search" in error
    for line in (
        "oracle: 'hyperband' then, 'random' now",
        "max_flops: None then, 300000 now",
        "learning_rate: 0.1 then, 0.3 now",
    ):
        assert line in error
    same = _described([*required, "--max-corrupt-images", "40"])
    check_folder(SearchFolder(tmp_path / "search"), same)
    (tmp_path / "space.toml").write_text("units = [1, 2, 3]")
    assert main(required) == 2
    assert "units: [1, 2] then, [1, 2, 3] now" in capsys.readouterr().err


def test_a_search_of_a_version_that_knew_fewer_values_goes_on(required, tmp_path):
    described = _described(required)
    folder = SearchFolder(tmp_path / "search")
    folder.output.mkdir()
    del described["recipe"]["patience"]
    write_json(folder.description, described)
    check_folder(folder, _described(required))
    # It did not note what was held out when shards were written, either.
    check_folder(folder, _described(required) | {"validation_split": 0.2})
    with pytest.raises(FileExistsError, match="patience: 0 then, 3 now"):
        check_folder(folder, _described([*required, "--patience", "3"]))


def test_a_folder_of_something_else_is_refused(required, tmp_path, capsys):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "thesis.tex").touch()
    assert main(required) == 2
    assert "must be new, empty or the folder of the same search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "-1"], "--workers must be 0 or more. Received: -1"),
        (["--keep-best", "0"], "--keep-best must be 1 or more. Received: 0"),
        (["--wait-minutes", "-1"], "--wait-minutes must be 0 or more. Received: -1"),
        (["--wait-minutes", "nan"], "--wait-minutes must be 0 or more. Received: nan"),
        (["--latency-batch-size", "0"], "--latency-batch-size must be 1 or more. Received: 0"),
        (["--max-trials", "0"], "--max-trials must be 1 or more. Received: 0"),
        (["--factor", "1"], "--factor must be 2 or more. Received: 1"),
        (
            ["--oracle", "random", "--promote-by", "loss"],
            "--promote-by is for oracles that continue trials: hyperband, halving",
        ),
        (["--max-flops", "10"], "No candidate keeps to the limits"),
        (["--learning-rate", "-1"], "`learning_rate` must be above 0"),
        (["--workers", "2", "--devices", "GPU:0"], "must be shared out evenly among 2 workers"),
        (["--space", "digit"], "Did you mean 'digits'"),
    ],
)
def test_a_wrong_argument_is_told(required, tmp_path, capsys, options, message):
    assert main([*required, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_a_limit_that_is_none_is_told(required, capsys):
    limits = {"--max-flops": "1.5", "--max-parameters": "1e999", "--max-latency": "1s"}
    for option, wrong in limits.items():
        for value in ("abc", "nan", "inf", "-3", "0", wrong):
            with pytest.raises(SystemExit) as ended:
                main([*required, f"{option}={value}"])
            assert ended.value.code == 2
            line = capsys.readouterr().err.splitlines()[-1]
            assert f"argument {option}: must be a " in line
            assert line.endswith(f"Received: {value!r}")


def test_a_metric_of_five_is_for_more_than_five_classes(required, tmp_path, capsys):
    for split, name in itertools.product(("train", "test"), "ab"):
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "0.png")
    command = [*required, "--data", str(tmp_path / "images")]
    for option in ("--objective", "--promote-by"):
        assert main([*command, option, "val_top5"]) == 2
        assert "val_top5 is for more than five classes" in capsys.readouterr().err


def test_an_environment_of_half_a_cluster_is_told(required, monkeypatch, capsys):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.delenv("KERASTUNER_TUNER_ID", raising=False)
    assert main(required) == 2
    assert "must have KERASTUNER_TUNER_ID as well" in capsys.readouterr().err


@pytest.fixture
def make_tuner(hypermodel, tmp_path, monkeypatch) -> Callable[..., TrainingTuner]:
    """Return a function that makes a tuner that runs its trials itself."""
    # The tuner sets it.
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "")

    def make(*options: str) -> TrainingTuner:
        objective = keras_tuner.Objective("val_top1", "max")
        oracle = make_oracle("halving", hypermodel, objective, max_trials=4, max_epochs=9)
        folder = SearchFolder(tmp_path / "search")
        return TrainingTuner(oracle, hypermodel, folder, Training(options))

    return make


def test_a_training_that_fails_is_recorded_with_its_last_words(
    make_tuner, tmp_path, hypermodel, forked_commands
):
    tuner = make_tuner("--data", str(tmp_path / "nothing"))
    trial = tuner.oracle.create_trial("chief")
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="exit status 2"):
        tuner.run_trial(trial)
    (record,) = SearchFolder(tmp_path / "search").records()
    assert record.status == "failed"
    assert "training.train: " in record.message
    assert str(tmp_path / "nothing") in record.message
    assert record.attempts == [{"worker": "chief", "after_epoch": 0}]
    recipe = load_recipe(tmp_path / "search" / "trials" / trial.trial_id / "recipe.toml")
    assert recipe == hypermodel.recipe(trial.hyperparameters.values)


def test_a_training_that_is_killed_is_retried(make_tuner, tmp_path, monkeypatch):
    started = []
    start = processes.start

    def start_and_kill(*arguments, **options):
        started.append(start(*arguments, **options))
        started[-1].kill()
        return started[-1]

    monkeypatch.setattr(processes, "start", start_and_kill)
    tuner = make_tuner("--data", "digits")
    trial = tuner.oracle.create_trial("chief")
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="killed by signal 9"):
            tuner.run_trial(trial)
        (record,) = SearchFolder(tmp_path / "search").records()
        assert len(started) == len(record.attempts) == attempt
        assert record.signal == signal.SIGKILL


# Before a test replaces them.
RUN, START = processes.run, processes.start
WEIGHTS = ("model.keras", "best.keras", "checkpoint/last.npz")


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, int]]:
    """Let a training only leave the files of one, and return the list of those done."""
    done = []

    def run(command, log, threads=0):
        output = Path(command[command.index("--output") + 1])
        ends = "--stop-after" not in command
        epochs = 3 if ends else int(command[command.index("--stop-after") + 1])
        done.append((output.parent.name, epochs))
        for name in WEIGHTS:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).touch()
        accuracy = 0.5 + 0.01 * (7 * int(output.parent.name) % 10)
        # As if the best fit the training images worst.
        results = {"val_top1": accuracy, "loss": accuracy}
        history = [{"epoch": epoch + 1, **results} for epoch in range(epochs)]
        status = "finished" if ends else "running"
        write_json(output / "run.json", {"status": status, "history": history})
        return 0

    monkeypatch.setattr(processes, "run", run)
    monkeypatch.setattr(tuner, "_PATIENCE", 0.0)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "")
    return done


def test_another_spelling_of_the_set_is_the_same_search(required, tmp_path):
    folder, described = _folder(tmp_path), _described(required)
    folder.claim({**described, "source": "./digits/"})
    check_folder(folder, described)


def test_trials_are_continued_by_the_training_loss(required, tmp_path, trained):
    output = tmp_path / "search"
    command = [*required, "--output", str(output), "--oracle", "halving", "--epochs", "3"]
    assert main([*command, "--max-trials", "4", "--promote-by", "loss"]) == 0
    *begun, continued = SearchFolder(output).records()
    assert continued.run == min(begun, key=lambda record: record.results["loss"]).run
    assert json.loads((output / "search.json").read_text())["promote_by"] == "loss"
    # Another promotion is another search.
    assert main([*command, "--max-trials", "4"]) == 2


def test_a_search_of_before_goes_on_by_its_objective(required, tmp_path, capsys, trained):
    folder = _folder(tmp_path)
    command = [*required, "--oracle", "halving", "--epochs", "3", "--max-trials", "4"]
    described = _described(command)
    for name in _NEW:
        del described[name]
    folder.claim(described)
    assert main([*command, "--promote-by", "loss"]) == 2
    assert "promote_by: None then, 'loss' now" in capsys.readouterr().err
    # It filled no budget, and now would.
    folder.claim(described | {"max_flops": 10**9})
    assert main([*command, "--max-flops", "1e9"]) == 2
    assert "fill: False then, True now" in capsys.readouterr().err
    folder.claim(described)
    assert main(command) == 0
    *begun, continued = folder.records()
    assert continued.run == max(begun, key=lambda record: record.results["val_top1"]).run


# Entries of `search.json` that 0.1.0 had not.
_NEW = ("validation_split", "fill", "promote_by")


def test_weights_that_a_larger_search_goes_on_with_are_kept(
    required, tmp_path, capsys, trained, monkeypatch
):
    folder = _folder(tmp_path)
    leave_files = processes.run
    had_weights = []

    def run(command, log, threads=0):
        checkpoint = Path(command[command.index("--output") + 1], "checkpoint", "last.npz")
        had_weights.append(checkpoint.exists())
        return leave_files(command, log, threads)

    monkeypatch.setattr(processes, "run", run)
    command = [*required, "--oracle", "hyperband", "--factor", "2", "--epochs", "4"]
    command += ["--keep-best", "1"]
    # The first rung; the next is of two.
    # Again, once it is over: its state is then read, as it is where workers ran the trials.
    for _ in range(2):
        assert main([*command, "--max-trials", "4"]) == 0
    first = leaderboard(folder.records(), "val_top1")
    assert [folder.has_checkpoint(record) for record in first] == [True, True, False, False]
    assert main([*command, "--max-trials", "6"]) == 0
    assert had_weights == [False] * 4 + [True] * 2
    after = [record.attempts[0]["after_epoch"] for record in folder.records()]
    assert after == [0] * 4 + [1] * 2
    # One of them may be continued, and is the best as well.
    assert sum(map(folder.has_checkpoint, first)) == 1

    folder.remove_weights(first)
    # A process that was killed may leave a part of a checkpoint, which is none.
    run_folder = folder.output / first[0].run
    (run_folder / "checkpoint").mkdir()
    (run_folder / "checkpoint" / "partial-last.npz").write_bytes(b"PK")
    capsys.readouterr()
    assert main([*command, "--max-trials", "7"]) == 0
    last = folder.records()[-1]
    assert last.run == first[0].run and last.attempts[0]["after_epoch"] == 0
    output = capsys.readouterr().out
    assert f"The weights of {last.run} were removed" in output
    assert f"trial {last.trial} on chief: epochs 0 to 4" in output


def test_a_report_is_there_before_the_best_are_trained_again(
    required, tmp_path, capsys, trained, monkeypatch
):
    leave_files = processes.run

    def interrupt(command, log, threads=0):
        if "--stop-after" in command:
            return leave_files(command, log, threads)
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "run", interrupt)
    command = [*required, "--oracle", "random", "--max-trials", "1", "--epochs", "3"]
    assert main([*command, "--confirm", "1"]) == 130
    assert f"{tmp_path / 'search'} has the results so far" in capsys.readouterr().out
    for name in ("leaderboard.md", "search.html", "best-1.toml"):
        assert (tmp_path / "search" / name).exists()


DAMAGES = [
    ("search.json", lambda value: []),
    ("search.json", lambda value: _without(value, "images")),
    ("search.json", lambda value: value | {"recipe": None}),
    ("search.json", lambda value: value | {"max_trials": "2"}),
    ("oracle/oracle.json", None),
    ("oracle/oracle.json", lambda value: []),
    ("oracle/oracle.json", lambda value: _without(value, "end_order")),
    ("oracle/chief.json", None),
    ("oracle/trial_0/trial.json", None),
    ("oracle/trial_0/trial.json", lambda value: _without(value, "metrics")),
    ("trials/0/trial.json", lambda value: value | {"results": {}}),
    ("trials/0/run/run.json", None),
]


def _without(value, name):
    return {each: value[each] for each in value if each != name}


def test_a_damaged_search_does_not_go_on_and_names_the_file(required, tmp_path, capsys, trained):
    folder = _folder(tmp_path)
    command = [*required, "--oracle", "random", "--epochs", "3"]
    assert main([*command, "--max-trials", "1"]) == 0
    # None of them is a trial.
    shutil.copytree(folder.trial("0"), folder.trial("backup"))
    shutil.copytree(folder.output / "oracle" / "trial_0", folder.output / "oracle" / "trial_old")
    (folder.output / "oracle" / "trial_old" / "trial.json").write_text("{")
    for name, damage in DAMAGES:
        path = folder.output / name
        content = path.read_text()
        path.write_text(json.dumps(damage(json.loads(content))) if damage else content[:-9])
        capsys.readouterr()
        assert main([*command, "--max-trials", "2"]) == 2, name
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{path} is damaged" in line
        path.write_text(content)
    for name in ("oracle", CHIEF):
        path = folder.output / "oracle" / f"{name}.json"
        path.rename(tmp_path / name)
        assert main([*command, "--max-trials", "2"]) == 2
        assert f"is damaged: it has no {path}." in capsys.readouterr().err
        (tmp_path / name).rename(path)
    assert main([*command, "--max-trials", "2"]) == 0
    assert trained == [("0", 3), ("1", 3)]


def test_a_trial_whose_record_is_gone_is_not_continued(required, tmp_path, capsys, trained):
    folder = _folder(tmp_path)
    command = [*required, "--oracle", "hyperband", "--epochs", "3"]
    assert main([*command, "--max-trials", "3"]) == 0
    (best, *_) = leaderboard(folder.records(), "val_top1")
    folder.record(best.trial).unlink()
    assert main([*command, "--max-trials", "4"]) == 2
    error = capsys.readouterr().err
    assert f"trial 3 continues another, and there is no {folder.record(best.trial)}." in error


def test_the_best_are_trained_again_with_other_seeds(required, tmp_path, capsys, trained):
    command = [*required, "--output", str(tmp_path / "search"), "--oracle", "random"]
    assert main([*command, "--max-trials", "4", "--epochs", "3"]) == 0
    assert len(trained) == 4 and "Trained again" not in capsys.readouterr().out
    command += ["--max-trials", "4", "--epochs", "3", "--confirm", "2"]
    assert main(command) == 0
    best = [each.trial for each in leaderboard(_folder(tmp_path).records(), "val_top1")][:3]
    assert trained[4:] == [(trial, 3) for trial in best for _ in range(2)]
    assert "## Trained again" in capsys.readouterr().out
    for trial in best:
        recipes = sorted((tmp_path / "search" / "confirmed" / trial).glob("*.toml"))
        assert [load_recipe(path).seed for path in recipes] == [1, 2]
    # What is there is not trained again.
    assert main(command) == 0
    assert len(trained) == 10


def _folder(tmp_path):
    return SearchFolder(tmp_path / "search")


def test_a_search_in_which_trials_were_killed_says_so_and_fails(
    required, trained, monkeypatch, capsys
):
    leave_files = processes.run

    def run_and_kill(command, log, threads=0):
        if "/trials/0/" in " ".join(command):
            return leave_files(command, log, threads)
        return RUN(command, log, threads)

    def start_and_kill(command, *arguments, **options):
        process = START(command, *arguments, **options)
        process.send_signal(signal.SIGSEGV)
        return process

    monkeypatch.setattr(processes, "run", run_and_kill)
    monkeypatch.setattr(processes, "start", start_and_kill)
    command = [*required, "--oracle", "random", "--max-trials", "2", "--retries", "0"]
    for _ in range(2):
        assert main(command) == 1
        captured = capsys.readouterr()
        assert "Trials: 1 finished, 1 failed." in captured.out
        assert "1 of 2 trials were ended by a signal" in captured.err
        assert "trial 1: SIGSEGV; " in captured.err
        assert "/trials/1/log.txt" in captured.err


@pytest.mark.parametrize("oracle", ["random", "hyperband", "halving"])
def test_a_search_is_extended_and_keeps_the_weights_of_the_best(
    required, tmp_path, capsys, trained, oracle
):
    # A name that is a pattern too.
    output = tmp_path / "runs [v1] *é?"
    command = [*required, "--output", str(output), "--oracle", oracle, "--epochs", "3"]
    assert main([*command, "--max-trials", "4"]) == 0
    before = {record.trial: record for record in SearchFolder(output).records()}
    assert len(trained) == len(before) == 4

    assert main([*command, "--max-trials", "11", "--keep-best", "2"]) == 0
    records = SearchFolder(output).records()
    # Of the seven that halving may add, five candidates and one promotion make a bracket.
    assert len(trained) == len(records) == (10 if oracle == "halving" else 11)
    assert [int(record.trial) for record in records] == list(range(len(records)))
    assert {each.trial: each for each in records if each.trial in before} == before
    ranked = [output / record.run for record in leaderboard(records, "val_top1")]
    for place, run in enumerate(ranked):
        assert (run / "run.json").exists()
        assert [(run / name).exists() for name in WEIGHTS] == [place < 2] * 3

    capsys.readouterr()
    assert main([*command, "--max-trials", "5"]) == 2
    assert "max_trials: 11 then, 5 now" in capsys.readouterr().err


def test_what_is_trained_already_is_not_trained_again(make_tuner, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("A process was started.")

    monkeypatch.setattr(processes, "start", refuse)
    tuner = make_tuner("--data", "digits")
    trial = tuner.oracle.create_trial("chief")
    epochs = trial.hyperparameters.values["tuner/epochs"]
    history = [{"epoch": epoch + 1, "val_top1": 0.1 * epoch} for epoch in range(epochs + 2)]
    run = tmp_path / "search" / "trials" / trial.trial_id / "run"
    run.mkdir(parents=True)
    write_json(run / "run.json", {"status": "running", "history": history})
    # That of the trial's own last epoch, though another trial has gone on from there.
    assert tuner.run_trial(trial) == {"val_top1": 0.1 * (epochs - 1)}


def test_a_trial_that_patience_has_ended_is_finished_in_every_rung(
    make_tuner, tmp_path, trained, monkeypatch
):
    leave_files = processes.run

    def run(command, log, threads=0):
        """Leave a run that ended an epoch before it was to stop."""
        place = command.index("--stop-after") + 1
        leave_files([*command[:place], str(int(command[place]) - 1), *command[place + 1 :]], log)
        path = Path(command[command.index("--output") + 1], "run.json")
        write_json(path, {**json.loads(path.read_text()), "status": "finished"})
        return 0

    monkeypatch.setattr(processes, "run", run)
    tuner = make_tuner("--data", "digits")
    trial = tuner.oracle.create_trial("chief")
    trial.hyperparameters.values["tuner/epochs"] = 3
    assert tuner.run_trial(trial) == {"val_top1": 0.5, "loss": 0.5}
    folder = SearchFolder(tmp_path / "search")
    assert (folder.read(trial.trial_id).epochs, len(trained)) == (2, 1)

    promoted = copy.deepcopy(trial)
    promoted.trial_id = "1"
    values = promoted.hyperparameters.values
    values |= {"tuner/trial_id": trial.trial_id, "tuner/epochs": 9}
    assert tuner.run_trial(promoted) == {"val_top1": 0.5, "loss": 0.5}
    record = folder.read("1")
    assert (record.status, record.epochs, len(trained)) == ("finished", 2, 1)
    assert record.run == f"trials/{trial.trial_id}/run"


def _command(arguments: list[str], *options: str) -> list[str]:
    return [sys.executable, "-m", "training.tune", *arguments, *options]


def _start(command: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with open(log, "w") as file:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )


def _wait(process: subprocess.Popen, log: Path, condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)


def _epochs(output: Path, trial: str) -> int:
    run = output / "trials" / trial / "run"
    return len(read_run(run)["history"]) if (run / "run.json").exists() else 0


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_with_recipes_that_train(required, tmp_path):
    output, log = tmp_path / "search", tmp_path / "log.txt"
    options = ["--oracle", "random", "--max-trials", "2", "--epochs", "2", *LONG]
    command = _command(required, *options)
    process = _start(command, log)
    _wait(process, log, lambda: _epochs(output, "1") == 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Its training ends with it.
    time.sleep(2)
    assert _epochs(output, "1") == 1

    process = _start(command, log)
    assert process.wait() == 0, log.read_text()
    attempts = [record.attempts for record in SearchFolder(output).records()]
    assert attempts == [
        [{"worker": "chief", "after_epoch": 0}],
        [{"worker": "chief", "after_epoch": 0}, {"worker": "chief", "after_epoch": 1}],
    ]
    assert [_epochs(output, trial) for trial in "01"] == [2, 2]
    assert "Trials: 2 finished." in (output / "leaderboard.md").read_text()
    assert "| 1 |" in log.read_text()

    best = ["--recipe", str(output / "best-1.toml"), "--data", "digits", "--epochs", "1"]
    assert train([*best, "--epoch-steps", "2", "--output", str(tmp_path / "best")]) == 0
    assert len(read_run(tmp_path / "best")["history"]) == 1


@pytest.mark.slow
def test_promoted_trials_continue_where_their_parents_stopped(required, tmp_path):
    output, log = tmp_path / "search", tmp_path / "log.txt"
    options = ["--oracle", "halving", "--max-trials", "4", "--epochs", "3", "--epoch-steps", "4"]
    assert _start(_command(required, *options), log).wait() == 0, log.read_text()
    records = SearchFolder(output).records()
    assert [record.epochs for record in records] == [1, 1, 1, 3]
    last = records[-1]
    parent = next(record for record in records if record.run == last.run)
    assert parent.values == last.values
    assert last.attempts == [{"worker": "chief", "after_epoch": 1}]
    assert not (output / "trials" / last.trial / "run").exists()
    history = read_run(output / last.run)["history"]
    assert history[0]["val_top1"] == parent.results["val_top1"]
    assert history[2]["val_top1"] == last.results["val_top1"]
    # The whole recipe's schedule: one cycle, at its end.
    assert history[2]["learning_rate"] < history[0]["learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker0", "chief"])
def test_a_cluster_survives_its_members_and_runs_nothing_twice(required, tmp_path, victim):
    output, log = tmp_path / "search", tmp_path / "log.txt"
    options = ["--oracle", "random", "--max-trials", "3", "--epochs", "2", *LONG]
    process = _start(_command(required, *options, "--workers", "2"), log)

    def busy() -> list[str]:
        """Return the trial that worker0 is at, once it has completed an epoch."""
        records = SearchFolder(output).records()
        return [
            record.trial
            for record in records
            if record.attempts[-1]["worker"] == "worker0"
            and record.status == "running"
            and _epochs(output, record.trial) == 1
        ]

    _wait(process, log, busy)
    (trial,) = busy()
    pid = re.search(rf"^{victim}: process (\d+)", log.read_text(), re.MULTILINE)[1]
    os.kill(int(pid), signal.SIGKILL)
    assert process.wait() == 0, log.read_text()
    assert f"{victim} died, exit status -9." in log.read_text()

    records = {record.trial: record for record in SearchFolder(output).records()}
    assert [record.status for record in records.values()] == ["finished"] * 3
    assert [_epochs(output, each) for each in records] == [2, 2, 2]
    attempts = {each: len(record.attempts) for each, record in records.items()}
    if victim == "chief":
        assert attempts == dict.fromkeys(records, 1)
    else:
        assert attempts == {each: 1 + (each == trial) for each in records}
        assert records[trial].attempts[1] == {"worker": "worker0", "after_epoch": 1}
    oracle = json.loads((output / "oracle" / "oracle.json").read_text())
    assert sorted(oracle["end_order"]) == sorted(records)
    assert len({json.dumps(record.values) for record in records.values()}) == 3


# Chief, workers; a pause between two starts lets the earlier come to where it waits.
ORDERS = [
    (("worker0", "worker1", CHIEF), 2.0),
    (("worker0", CHIEF, "worker1"), 2.0),
    ((CHIEF, "worker0", "worker1"), 2.0),
    ((CHIEF, "worker1", "worker0"), 0.0),
    (("worker1", "worker0", CHIEF), 0.0),
]


def _be(environment: dict[str, str], arguments: list[str], log: Path) -> None:
    """Be a member of a cluster whose trainings only leave the file of one."""

    def run(command, log, threads=0):
        output = Path(command[command.index("--output") + 1])
        output.mkdir(parents=True, exist_ok=True)
        ends = "--stop-after" not in command
        epochs = 3 if ends else int(command[command.index("--stop-after") + 1])
        history = [{"epoch": epoch + 1, "val_top1": 0.5} for epoch in range(epochs)]
        status = "finished" if ends else "running"
        write_json(output / "run.json", {"status": status, "history": history})
        return 0

    processes.run = run
    os.environ.update(environment)
    with open(log, "w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(main(arguments))


@pytest.mark.slow
@pytest.mark.parametrize(("order", "pause"), ORDERS)
def test_chief_and_workers_start_in_any_order(required, tmp_path, order, pause):
    """Ten times each; a member that came too late ends as well."""
    for turn in range(10):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = {
                "KERASTUNER_ORACLE_IP": "127.0.0.1",
                "KERASTUNER_ORACLE_PORT": str(probe.getsockname()[1]),
            }
        folder = SearchFolder(tmp_path / f"search{turn}")
        command = [*required, "--oracle", "random", "--output", str(folder.output)]
        members = {}
        for name in order:
            environment = {**address, "KERASTUNER_TUNER_ID": name}
            log = tmp_path / f"{name}-{turn}.txt"
            members[name] = FORKS.Process(
                target=_be, args=(environment, [*command, "--workers", "2"], log)
            )
            members[name].start()
            time.sleep(pause)
        for name, process in members.items():
            process.join(120)
            assert process.exitcode == 0, (tmp_path / f"{name}-{turn}.txt").read_text()
        assert [record.status for record in folder.records()] == ["finished"] * 3
        assert folder.ended()


def test_a_worker_without_a_chief_writes_nothing_and_says_who_is_missing(
    required, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
    worker = [*required, "--wait-minutes", "0.001"]
    folder = SearchFolder(tmp_path / "search")
    assert main(worker) == 2
    output, error = capsys.readouterr()
    assert f"Waiting for the chief to begin {folder.description} (0 of 0.001 minutes)." in output
    assert f"Waited 0.001 minutes for the chief to begin {folder.description}." in error
    assert not folder.output.exists()

    folder.claim(_described(required))
    assert main(worker) == 2
    assert "Waited 0.001 minutes for the chief at 127.0.0.1:1." in capsys.readouterr().err

    # Values that decide nothing may be others on another machine.
    assert main([*worker, "--max-corrupt-images", "40"]) == 2
    assert "Waited 0.001 minutes for the chief at 127.0.0.1:1." in capsys.readouterr().err

    folder.end(_described(required))
    assert main(worker) == 0
    folder.claim(_described([*required, "--oracle", "random"]))
    assert main(worker) == 2
    assert "oracle: 'random' then, 'hyperband' now" in capsys.readouterr().err
