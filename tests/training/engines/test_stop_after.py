"""Runs that end early on purpose. `records/test_resume.py` compares them with whole ones."""

from __future__ import annotations

import keras
import pytest

from keras_preact.files import write_json
from training.engines import fitting
from training.records.checkpoint import save_checkpoint
from training.run import read_run


def test_a_run_ends_when_its_patience_does(train, tmp_path, capsys):
    # Nothing changes the outputs, so no epoch is better than the first.
    still = ["--learning-rate", "1e-12", "--weight-decay", "0", "--warmup-epochs", "0"]
    still += ["--schedule", "constant", "--model-options", 'norm="none"', "units=[1,1]"]
    options = [*still, "--epochs", "9", "--epoch-steps", "2", "--patience", "2"]
    assert train(tmp_path, *options) == 0
    ending = "Stopped after epoch 3 of 9: none has been better than epoch 1 (patience = 2)."
    assert ending in capsys.readouterr().out
    record = read_run(tmp_path)
    assert (record["status"], len(record["history"])) == ("finished", 3)
    assert record["stopped_early"] and record["recipe"]["patience"] == 2
    assert train(tmp_path, *options) == 0
    assert "is finished; nothing is left to do" in capsys.readouterr().out
    # Killed before the last record, it finds that nothing is left to train.
    write_json(tmp_path / "run.json", {**record, "status": "running"})
    keras.backend.clear_session(free_memory=False)
    assert train(tmp_path, *options) == 0
    assert read_run(tmp_path) == record


@pytest.mark.parametrize("flag", ["--stop-after", "--save-every", "--log-every"])
def test_stopping_saving_and_logging_need_an_epoch_or_step(train, flag, tmp_path, capsys):
    assert train(tmp_path / "run", flag, "0") == 2
    assert f"{flag} must be 1 or more. Received: 0" in capsys.readouterr().err


def test_checkpoints_of_some_epochs(train, tmp_path, monkeypatch):
    saved, best_before = [], []

    def save(path, net, optimizer, progress):
        saved.append(progress.epochs)
        best_before.append((run / "best.keras").exists())
        save_checkpoint(path, net, optimizer, progress)

    monkeypatch.setattr(fitting, "save_checkpoint", save)
    run = tmp_path / "run"
    assert train(run, "--epochs", "5", "--epoch-steps", "1", "--save-every", "2") == 0
    # Before the first, then every second epoch and the last.
    assert saved == [0, 2, 4, 5]
    # The best net comes with the checkpoint that knows of it.
    assert best_before == [False, False, True, True]
    assert not [*(run / "checkpoint").glob("*.keras")]
    assert len(read_run(run)["history"]) == 5
