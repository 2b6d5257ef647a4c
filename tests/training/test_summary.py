"""`python -m training.summary`: a run in five lines, of which the last is a command that works."""

from __future__ import annotations

import shlex

from keras_preact.files import write_json
from training.evaluate import main as evaluate
from training.run import read_run
from training.summary import main
from training.train import parse_arguments


def test_five_lines(finished, tmp_path, capsys):
    run = finished.copy(tmp_path / "run")
    assert main([str(run)]) == 2
    assert "evaluation.json" in capsys.readouterr().err
    assert evaluate(["--model", str(run)]) == 0
    accuracy = read_run(run)["history"][-1]["val_top1"]
    capsys.readouterr()
    assert main([str(run), "--exported", str(tmp_path / "models" / "digits")]) == 0
    trained, measured, *_, exported, following = capsys.readouterr().out.splitlines()
    assert "PreActResNet20 on 1,437 images of digits, 3 epochs" in trained
    assert f"{accuracy:.2%} of 360 images" in measured
    assert str(tmp_path / "models" / "digits") in exported
    _, command = following.split("-m training.train ")
    options, recipe = parse_arguments(shlex.split(command))
    assert recipe.model_options["attention"] == "se"
    assert not options.output.exists()
    write_json(run / "evaluation.json", {})
    (run / "evaluation.json").write_text("{")
    assert main([str(run)]) == 2
    assert "evaluation.json is no JSON" in capsys.readouterr().err
