"""Chief and workers: who is replaced, who is given which trial, what the manifest says."""

from __future__ import annotations

import os
from pathlib import Path

import keras_tuner
import pytest
import yaml

from keras_preact.tuning import make_oracle
from training.search.cluster import Cluster, share_devices
from training.search.trials import SearchFolder
from training.search.tuner import CHIEF, Training, TrainingTuner, worker_name
from training.tune import parse_arguments

ROOT = Path(__file__).parents[3]
MANIFEST = ROOT / "training" / "cluster" / "tune.yaml"

# A member of a cluster that notes that it was started, and then does what its name says.
MEMBER = """
import os, pathlib, signal, sys, time
name, folder = os.environ["KERASTUNER_TUNER_ID"], pathlib.Path(sys.argv[1])
with open(folder / name, "a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
starts = len((folder / name).read_text().splitlines())
if name == "worker1" and starts == 1 or name == "chief" and starts == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if name == "chief":
    time.sleep(300)
if name == "worker0":
    while not (folder / "worker1").exists() or (folder / "worker1").read_text().count("\\n") < 2:
        time.sleep(0.05)
# A refusal ends the others at once.
while (folder / "chief").read_text().count("\\n") < 2:
    time.sleep(0.05)
sys.exit(int((folder / "status").read_text()) if name == "worker1" else 0)
"""


@pytest.fixture
def member(tmp_path, monkeypatch) -> str:
    """Return a module that a cluster can run."""
    (tmp_path / "search_member.py").write_text(MEMBER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return "search_member"


@pytest.mark.parametrize("status", [0, 1])
def test_members_that_are_killed_are_replaced_and_a_refusal_ends_all(member, tmp_path, status):
    (tmp_path / "status").write_text(str(status))
    cluster = Cluster([member, str(tmp_path), "same"], [["--threads", "1"], ["--threads", "2"]])
    assert cluster.run() == status
    assert (tmp_path / "chief").read_text() == "same\n" * 2
    assert (tmp_path / "worker1").read_text() == "same --threads 2\n" * 2
    assert (tmp_path / "worker0").read_text() == "same --threads 1\n"
    assert all(process.poll() is not None for process in cluster.processes.values())


def test_gpus_are_shared_out_and_cpus_are_not():
    gpus = [f"GPU:{index}" for index in range(4)]
    assert share_devices(gpus, 2) == [["GPU:0", "GPU:1"], ["GPU:2", "GPU:3"]]
    assert share_devices(["CPU:0", "CPU:1"], 2) == [["CPU:0", "CPU:1"]] * 2
    assert share_devices([], 3) == [[], [], []]
    for workers in (3, 8):
        with pytest.raises(ValueError, match=f"evenly among {workers} workers.*GPU:0 GPU:1"):
            share_devices(gpus, workers)


@pytest.fixture
def make_tuner(hypermodel, tmp_path, monkeypatch):
    """Return a function that makes the tuner of a chief, at its start or its restart."""
    monkeypatch.setenv("KERASTUNER_TUNER_ID", CHIEF)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")

    def make(workers: int) -> TrainingTuner:
        oracle = make_oracle(
            "random",
            hypermodel,
            keras_tuner.Objective("val_top1", "max"),
            max_trials=6,
            max_epochs=3,
            max_retries_per_trial=1,
        )
        return TrainingTuner(oracle, hypermodel, SearchFolder(tmp_path), Training(()), workers)

    return make


def _finish(tuner: TrainingTuner, trial, status: str = "COMPLETED") -> None:
    if status == "COMPLETED":
        tuner.oracle.update_trial(trial.trial_id, {"val_top1": 0.5})
    trial.status = status
    tuner.oracle.end_trial(trial)


def test_a_chief_that_comes_back_leaves_the_trials_to_the_workers_that_are_at_them(make_tuner):
    chief = make_tuner(workers=3)
    chief.save()
    trials = [chief.oracle.create_trial(worker_name(index)) for index in range(3)]
    _finish(chief, trials[1])

    # The process is gone without another word; the end of trial 1 was the last that was written.
    again = make_tuner(workers=3)
    assert again.oracle.create_trial("worker2").trial_id == trials[2].trial_id
    assert again.oracle.create_trial("worker0").trial_id == trials[0].trial_id
    new = again.oracle.create_trial("worker1")
    assert new.trial_id not in [trial.trial_id for trial in trials]
    # It waits for those that have not heard of the end yet.
    assert {"worker0", "worker2"} <= again.oracle.tuner_ids
    _finish(again, trials[0])
    assert again.oracle.end_order == [trials[1].trial_id, trials[0].trial_id]


def test_the_trials_of_workers_that_there_are_no_more_go_to_others(make_tuner):
    chief = make_tuner(workers=3)
    chief.save()
    trials = [chief.oracle.create_trial(worker_name(index)) for index in range(3)]
    again = make_tuner(workers=1)
    taken = []
    for _ in range(3):
        trial = again.oracle.create_trial("worker0")
        taken.append(trial.trial_id)
        _finish(again, trial)
    assert sorted(taken) == [trial.trial_id for trial in trials]
    # Each once: the next is new.
    assert again.oracle.create_trial("worker0").trial_id not in taken


def test_a_trial_that_waits_for_its_retry_is_given_to_one_worker_only(make_tuner):
    chief = make_tuner(workers=2)
    chief.save()
    trial = chief.oracle.create_trial("worker0")
    # Written before the worker is free of it.
    _finish(chief, trial, "INVALID")
    again = make_tuner(workers=2)
    given = [again.oracle.create_trial(worker_name(index)).trial_id for index in range(2)]
    assert trial.trial_id in given
    assert len(set(given)) == 2


def test_the_manifest_starts_a_chief_and_workers_with_the_commands_options():
    jobs = {each["metadata"]["name"]: each for each in _documents() if each["kind"] == "Job"}
    chief, workers = jobs["tune-chief"], jobs["tune-worker"]
    service = next(each for each in _documents() if each["kind"] == "Service")
    containers = [job["spec"]["template"]["spec"]["containers"][0] for job in (chief, workers)]
    arguments = [_arguments(container) for container in containers]
    assert arguments[0] == arguments[1]
    options, _ = parse_arguments(arguments[0])
    assert workers["spec"]["completionMode"] == "Indexed"
    assert workers["spec"]["completions"] == workers["spec"]["parallelism"] == options.workers
    environments = [_environment(container) for container in containers]
    assert environments[0]["KERASTUNER_TUNER_ID"] == CHIEF
    index = environments[1]["KERASTUNER_TUNER_ID"].replace("$(INDEX)", "7")
    assert index == worker_name(7)
    assert environments[1]["KERASTUNER_ORACLE_IP"] == service["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert {each["KERASTUNER_ORACLE_PORT"] for each in environments} == {str(port)}
    labels = chief["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    # They share one volume, which holds the search.
    (mount,) = {
        mount["mountPath"] for container in containers for mount in container["volumeMounts"]
    }
    assert str(options.output).startswith(mount)
    claims = [each for each in _documents() if each["kind"] == "PersistentVolumeClaim"]
    assert claims[0]["spec"]["accessModes"] == ["ReadWriteMany"]
    for job in (chief, workers):
        (volume,) = job["spec"]["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claims[0]["metadata"]["name"]


def _documents() -> list[dict]:
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def _arguments(container: dict) -> list[str]:
    command = container["command"]
    assert command[:3] == ["python", "-m", "training.tune"]
    return command[3:]


def _environment(container: dict) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}
