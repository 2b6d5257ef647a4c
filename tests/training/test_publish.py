"""Weights and model card of a finished run."""

from __future__ import annotations

import hashlib
import re

import pytest

from training.evaluate import main as evaluate
from training.publish import main as publish
from training.records.files import write_json
from training.run import read_run

NAMES = ("--data-name", "Digits", "--name", "tiny_digits")


def test_the_card_tells_what_the_file_does(finished, tmp_path, capsys):
    run, output = finished.copy(tmp_path / "run"), tmp_path / "published"
    assert evaluate(["--model", str(run)]) == 0
    accuracy = re.search(r"Top-1 +(\S+)%", capsys.readouterr().out)[1]
    assert publish(["--model", str(run), "--data", "digits", *NAMES, "--output", str(output)]) == 0
    card = (output / "tiny_digits.md").read_text()
    digest = hashlib.sha256((output / "tiny_digits.weights.h5").read_bytes()).hexdigest()
    assert digest in card
    published = float(re.search(r"(\S+)% of the \d+ test images", card)[1])
    # 16 bits may turn an image of the few.
    assert published == pytest.approx(float(accuracy), abs=0.5)
    assert "3 epochs" in card and "| `ema_momentum` | `0.9` |" in card
    assert len(list(output.iterdir())) == 2


def test_the_card_names_every_run_that_led_to_the_net(train, finished, tmp_path):
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "published"
    finished.copy(first)
    few = ["--epochs", "2", "--epoch-steps", "2", "--save-every", "2"]
    assert train(second, "--init", str(first / "best.keras"), *few) == 0
    command = ["--model", str(second), "--data", "digits", *NAMES]
    assert publish([*command, "--output", str(output)]) == 0
    card = (output / "tiny_digits.md").read_text()
    assert "3, then 2 epochs" in card
    lines = [read_run(run)["command"] for run in (first, second)]
    assert f"1. `{lines[0]}`" in card and f"2. `{lines[1]}`" in card
    (first / "run.json").unlink()
    assert publish([*command, "--output", str(output)]) == 0
    card = (output / "tiny_digits.md").read_text()
    assert f"1. `{lines[1]}`" in card and "2. `" not in card
    assert str(first / "best.keras") in card


def test_what_cannot_be_published(finished, tmp_path, capsys):
    run, output = finished.copy(tmp_path / "run"), tmp_path / "published"
    record = read_run(run)
    write_json(run / "run.json", record | {"class_names": ["cat", "dog"]})
    command = ["--model", str(run), "--data", "digits", *NAMES, "--output", str(output)]
    assert publish(command) == 2
    assert "was trained on ['cat', 'dog']" in capsys.readouterr().err
    (run / "run.json").unlink()
    sizes = ["--input-size", "8", "--mean", "0.3", "--std", "0.4"]
    assert publish(["--model", str(run / "model.keras"), *command[2:], *sizes]) == 2
    assert "there is no run.json beside" in capsys.readouterr().err
    assert not output.exists()
