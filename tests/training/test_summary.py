"""`python -m training.summary`: a run in five lines, of which the last is a command that works."""

from __future__ import annotations

import json
import shlex

import pytest

from training.evaluate import main as evaluate
from training.run import read_run
from training.summary import main
from training.train import parse_arguments


def test_five_lines(finished, tmp_path, capsys):
    run = finished.copy(tmp_path / "my run")
    assert main([str(run)]) == 2
    assert "evaluation.json" in capsys.readouterr().err
    assert evaluate(["--model", str(run)]) == 0
    record = read_run(run)
    assert record["attention"] is None
    accuracy = record["history"][-1]["val_top1"]
    capsys.readouterr()
    assert main([str(run), "--exported", str(tmp_path / "models" / "digits")]) == 0
    trained, measured, *_, exported, following = capsys.readouterr().out.splitlines()
    assert "PreActResNet20 on 1,437 images of digits, 3 epochs" in trained
    assert f"{accuracy:.2%} of 360 images" in measured
    assert str(tmp_path / "models" / "digits") in exported
    _, command = following.split("-m training.train ")
    options, recipe = parse_arguments(shlex.split(command))
    assert recipe.model_options.pop("attention") == "se"
    assert recipe == parse_arguments(shlex.split(record["command"])[3:])[1]
    assert options.seed == 7
    assert options.output == tmp_path / "my run-se"
    assert not options.output.exists()


EVALUATION = {"images": 360, "source": "digits", "split": "test", "top1": 0.5}
RUN = {
    # None of this version's nets: none is needed.
    "recipe": {"model": "PreActResNet21"},
    "recipe_name": "digits",
    "history": [{"seconds": 1.0}],
    "images": {"train": 1437},
    "source": "digits",
    "command": "python -m training.train --recipe digits --output=a",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"command": "python -m training.fewshot"},
        {"recipe": RUN["recipe"] | {"init": "imagenet"}},
        {"recipe": RUN["recipe"] | {"model_options": {"attention": "se"}}},
        {"recipe": {"model": "SEPreActResNet50"}, "attention": "se"},
    ],
)
def test_attention_is_proposed_only_where_the_command_works(changes, tmp_path, capsys):
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    for record in (RUN, RUN | changes):
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert main([str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.split("Trained")[1:]
    assert "digits, 1 epoch, 1 s" in first
    assert "--output=a" not in first and "Try next" not in second


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("evaluation.json", "{", "is no JSON"),
        ("evaluation.json", "[]", "is damaged: it is no record"),
        ("evaluation.json", "{}", "is damaged: it has no 'images'"),
        ("evaluation.json", json.dumps(EVALUATION | {"top1": "half"}), "is damaged: "),
        ("run.json", "[" * 100_000, "is no JSON"),
        ("run.json", json.dumps(RUN | {"images": {}}), "is damaged: it has no 'train'"),
        ("run.json", json.dumps(RUN | {"images": 1437}), "is damaged: "),
        ("run.json", json.dumps(RUN | {"history": [1.0]}), "is damaged: "),
        ("run.json", json.dumps(RUN | {"command": 5}), "is damaged: "),
    ],
)
def test_a_damaged_record_is_named(name, content, said, tmp_path, capsys):
    for file, record in (("run.json", RUN), ("evaluation.json", EVALUATION)):
        (tmp_path / file).write_text(json.dumps(record))
    assert main([str(tmp_path)]) == 0
    (tmp_path / name).write_text(content)
    capsys.readouterr()
    assert main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"training.summary: {tmp_path / name} {said}")
