"""Reports of a search: the order, the Pareto front, the files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess

import pytest

from keras_preact.files import write_json
from training.recipe import Recipe, load_recipe
from training.search.confirm import confirmed, verdict
from training.search.ranking import leaderboard, pareto_front
from training.search.report import Board, write_report
from training.search.trials import Record, SearchFolder, write_recipe
from training.tune import main


def _record(trial: str, top1: float, flops: int = 1_000_000, **changes) -> Record:
    record = Record(
        trial=trial,
        values={"units_stage2": int(trial), "attention": "se"},
        run=f"trials/{trial}/run",
        epochs=3,
        flops=flops,
        parameters=1000,
        status="finished",
        attempts=[{"worker": "worker0", "after_epoch": 0}],
        results={"epoch": 3, "val_top1": top1, "val_loss": 1 - top1, "seconds": 9.0},
    )
    return record.replace(**changes)


@pytest.fixture
def folder(tmp_path) -> SearchFolder:
    folder = SearchFolder(tmp_path)
    write_json(
        folder.description,
        {
            "objective": "val_top1",
            "oracle": "halving",
            "source": "digits",
            "recipe": dataclasses.asdict(Recipe(epochs=9)),
        },
    )
    return folder


def _add(folder: SearchFolder, *records: Record) -> None:
    for record in records:
        folder.write(record)
        write_recipe(folder.recipe(record.trial), Recipe(epochs=9, seed=int(record.trial)))


def test_a_continued_trial_has_one_place_that_of_its_last_epoch():
    records = [
        _record("1", 0.9),
        _record("2", 0.7),
        # Worse than before, and still what became of it.
        _record("3", 0.6, run="trials/1/run", epochs=9),
        _record("4", 0.8, status="failed"),
        _record("5", 0.8, status="running"),
    ]
    assert [each.trial for each in leaderboard(records, "val_top1")] == ["2", "3"]
    assert [each.trial for each in leaderboard(records, "val_loss")] == ["2", "3"]


def test_a_loss_is_better_the_smaller_it_is():
    records = [_record("1", 0.9), _record("2", 0.7)]
    assert [each.trial for each in leaderboard(records, "val_loss")] == ["1", "2"]
    cheap = _record("2", 0.7, flops=10)
    assert [each.trial for each in pareto_front([records[0], cheap], "val_loss")] == ["2", "1"]


def test_the_pareto_front_holds_what_nothing_as_cheap_beats():
    records = [
        _record("1", 0.5, flops=10),
        _record("2", 0.4, flops=10),
        _record("3", 0.5, flops=20),
        _record("4", 0.7, flops=30),
        _record("5", 0.6, flops=40),
    ]
    assert [each.trial for each in pareto_front(records, "val_top1")] == ["1", "4"]


def test_the_report_of_a_search(folder, capsys):
    _add(
        folder,
        _record("1", 0.9, flops=2_000_000),
        _record("2", 0.7),
        _record("3", 0.0, status="failed", results={}, message="killed by signal 9\nits last line"),
    )
    assert main(["--report", "--output", str(folder.output)]) == 0
    text = (folder.output / "leaderboard.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert "Trials: 2 finished, 1 failed." in text
    assert "| 1 | 1 | 0.9000 | 3 | 2.00 | 1,000 | 1 | se |" in text
    assert "| 2 | 2 | 0.7000 | 3 | 1.00 | 1,000 | 2 | se |" in text
    assert "killed by signal 9\nits last line" in text
    rows = list(csv.DictReader(io.StringIO((folder.output / "leaderboard.csv").read_text())))
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert [row["val_top1"] for row in rows] == ["0.9", "0.7", ""]
    for name in ("flops.png", "parallel.png", "search.html"):
        assert (folder.output / name).stat().st_size > 10_000
    best = folder.output / "best-1.toml"
    assert load_recipe(best) == Recipe(epochs=9, seed=1)
    assert "# Place 1 of 2: trial 1, val_top1 0.9000 after 3 of 9 epochs" in best.read_text()
    assert not (folder.output / "best-3.toml").exists()


def test_the_report_before_a_trial_has_finished(folder):
    assert "Trials: none yet." in write_report(folder)
    _add(folder, _record("1", 0.0, status="running", results={}))
    assert "Trials: 1 running." in write_report(folder)


def test_there_is_no_report_of_another_folder(tmp_path, capsys):
    assert main(["--report", "--output", str(tmp_path)]) == 2
    assert "is not the folder of a search" in capsys.readouterr().err


def test_a_log_has_a_line_for_every_change_and_the_best_so_far(folder, capsys):
    _add(folder, _record("1", 0.9), _record("2", 0.7))
    board = Board(folder, "val_top1", 5)
    board.show(_record("2", 0.0, status="running"))
    board.show(_record("2", 0.7))
    board.show(_record("2", 0.0, status="failed", message="killed by signal 9"))
    lines = capsys.readouterr().out.splitlines()
    cost = "1.00 MFLOPs, 1,000 parameters"
    best = f"2 of at most 5 trials ended; best: 1 0.9000 ({cost}), 2 0.7000 ({cost})"
    assert lines == [
        f"trial 2 on worker0: epochs 0 to 3, {cost}, units_stage2=2 attention=se",
        "trial 2 on worker0: val_top1 0.7000, 0 s",
        best,
        "trial 2 on worker0 failed: killed by signal 9",
        best,
    ]


def test_a_terminal_has_a_table(folder, capsys, monkeypatch):
    _add(folder, _record("1", 0.9))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    Board(folder, "val_top1", 5).show(_record("1", 0.9))
    shown = capsys.readouterr().out
    assert "Best trials" in shown
    assert "0.9000" in shown


def test_a_recipe_written_is_the_recipe_read(tmp_path):
    recipe = Recipe(
        model="PreActResNet20",
        model_options={"units": [1, 2], "attention": "se", "drop_path": 0.1, "no_pool": True},
        step_epochs=(3.0, 5.5),
        schedule="step",
        freeze="none",
    )
    write_recipe(tmp_path / "recipe.toml", recipe, ["What it is."])
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def _train_again(folder: SearchFolder, trial: str, *results: float) -> None:
    for number, top1 in enumerate(results, 1):
        run = folder.output / "confirmed" / trial / f"seed{number}"
        run.mkdir(parents=True)
        write_json(run / "run.json", {"status": "finished", "history": [{"val_top1": top1}]})


def test_seeds_tell_which_nets_differ(folder):
    _add(folder, _record("1", 0.9), _record("2", 0.7), _record("3", 0.8))
    _train_again(folder, "1", 0.80, 0.81, 0.79)
    _train_again(folder, "2", 0.60, 0.61, 0.62)
    _train_again(folder, "3", 0.81, 0.80, 0.82)
    nets = confirmed(folder, "val_top1")
    assert [net.trial for net in nets] == ["3", "1", "2"]
    assert [round(net.spread, 6) for net in nets] == [0.01, 0.01, 0.01]
    # t = 0.01 / (0.01 * sqrt(2 / 3)) = 1.22 with 4 degrees of freedom; 24.5 beside the third.
    assert not nets[0].differs_from(nets[1]) and nets[0].differs_from(nets[2])
    text = write_report(folder)
    assert "Trial 3 cannot be told apart from trial 1: " in text
    assert "| 3 | 0.8100 | 0.0100 | 0.8100, 0.8000, 0.8200 |" in text
    assert "Trial 3 cannot be told apart" in (folder.output / "search.html").read_text()
    assert "is better than the others" in verdict([nets[0], nets[2]])
    # The order of the recipes is that of the means.
    best = [folder.output / f"best-{place}.toml" for place in (1, 2, 3)]
    assert [load_recipe(path).seed for path in best] == [3, 1, 2]
    again = "# Trained again, with 3 other seeds: 0.8100 in the mean."
    assert again in best[0].read_text()


def test_a_net_that_is_no_longer_among_the_best_is_not_in_the_verdict(folder):
    _add(folder, _record("1", 0.9), _record("2", 0.7), _record("3", 0.8))
    for trial, result in (("1", 0.7), ("2", 0.9), ("3", 0.8)):
        _train_again(folder, trial, result)
    # The first was continued since, and trained again before; the fourth is not trained again.
    _add(folder, _record("4", 0.85), _record("5", 0.9, run="trials/1/run", epochs=9))
    assert [net.trial for net in confirmed(folder, "val_top1")] == ["3", "5"]
    write_report(folder)
    # A mean and the result that a net was chosen by cannot be compared: the fourth stays second.
    best = [folder.output / f"best-{place}.toml" for place in (1, 2, 3)]
    assert [load_recipe(path).seed for path in best] == [3, 4, 5]


DAMAGES = [
    ("search.json", []),
    ("search.json", {"oracle": "random", "source": "digits", "recipe": {}}),
    ("search.json", {"oracle": "a", "source": "b", "recipe": {}, "objective": "accuracy"}),
    ("trials/1/trial.json", {"results": {}}),
    ("trials/1/trial.json", {"results": {"val_top1": "good"}}),
    ("trials/1/trial.json", {"trial": "0b"}),
    ("trials/1/trial.json", {"status": "lost"}),
    ("trials/1/trial.json", {"values": {"units_stage2": [1]}}),
    ("trials/1/trial.json", {"flops": None}),
    ("trials/1/run/run.json", {}),
    ("trials/1/run/run.json", {"history": [{"epoch": 1}]}),
    ("confirmed/1/seed1/run.json", {"status": "finished", "history": []}),
    ("confirmed/1/seed1/run.json", []),
]


def test_a_damaged_file_is_named(folder, capsys):
    _add(folder, _record("1", 0.9))
    (folder.output / "trials" / "1" / "run").mkdir()
    write_json(folder.output / "trials/1/run/run.json", {"history": [{"val_top1": 0.9}]})
    _train_again(folder, "1", 0.8)
    # None of them is a trial, or a training with another seed.
    shutil.copytree(folder.trial("1"), folder.trial("backup"))
    write_json(folder.record("backup"), {"trial": "0b"})
    shutil.copytree(folder.output / "confirmed/1/seed1", folder.output / "confirmed/1/seed1-old")
    report = ["--report", "--output", str(folder.output)]
    assert main(report) == 0
    for name, damage in DAMAGES:
        path = folder.output / name
        content = path.read_text()
        if path.name == "trial.json":
            damage = json.loads(content) | damage
        write_json(path, damage)
        capsys.readouterr()
        assert main(report) == 2, (name, damage)
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{path} is damaged" in line
        path.write_text(content)
    folder.recipe("1").write_text("epochs = ")
    assert main(report) == 2
    assert "is damaged" in (line := capsys.readouterr().err) and str(folder.recipe("1")) in line
    folder.recipe("1").unlink()
    assert main(report) == 2
    error = f"training.tune: {folder.output} is damaged: it has no {folder.recipe('1')}.\n"
    assert capsys.readouterr().err == error


def test_a_report_says_by_what_trials_were_continued(folder):
    assert "continued by" not in write_report(folder)
    folder.claim(folder.described() | {"promote_by": "loss"})
    assert "Trials were continued by their `loss`." in write_report(folder)


def test_the_page_in_a_browser(folder, tmp_path):
    """It draws itself without a network: three plots, and a drawing of every net."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    _add(folder, _record("1", 0.9, flops=2_000_000), _record("2", 0.7, values={"a<b": "c&d"}))
    write_report(folder)
    page = (folder.output / "search.html").as_uri()
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", "--disable-background-networking"]
    blocked = "--host-resolver-rules=MAP * ~NOTFOUND"
    drawn = subprocess.run(
        [*command, blocked, "--dump-dom", page], capture_output=True, text=True, check=True
    ).stdout
    assert drawn.count('class="plotly-graph-div js-plotly-plot"') == 3
    # Points of trials, axes of values, curves.
    assert drawn.count('class="point"') >= 2 and "parcoords-lines" in drawn
    assert drawn.count('role="img"') == 2 and "bottleneck: 3 x 256, 4 x 512" in drawn
    assert "a&lt;b" in drawn
