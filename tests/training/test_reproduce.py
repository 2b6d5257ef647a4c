"""The paper's tables, repeated on the digits at a size of seconds."""

from __future__ import annotations

import json
import re

import pytest

from training import reproduce
from training.reproduce import (
    FAILS,
    TABLES,
    Result,
    Row,
    Size,
    Table,
    check_data,
    comparison,
    main,
    results,
)
from training.run import read_run

ROWS = (
    Row("first", {"order": "original", "gate_bias": -0.5}, {"resnet110": 6.61}),
    Row("second", {"order": "full_preactivation"}, {"resnet110": 6.37}),
)
# Two epochs and one checkpoint.
TWO = ("--epochs", "2", "--save-every", "2")


@pytest.fixture
def size(tiny_recipe, forked_commands, monkeypatch) -> None:
    monkeypatch.setitem(reproduce.TABLES, "orders", Table("Order of activation", ROWS))
    monkeypatch.setitem(reproduce.SIZES, "cpu", Size(str(tiny_recipe), TWO))


def _result(row: Row, *accuracies: float) -> Result:
    return Result(row, {seed: [{"val_top1": value}] for seed, value in enumerate(accuracies)})


def test_trains_every_row_once_and_writes_what_came_of_it(size, tmp_path, capsys):
    arguments = ["orders", "--data", "digits", "--seeds", "1", "--processes", "2"]
    arguments += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert first.count("training order=") == 2
    run = read_run(tmp_path / "runs" / "cpu" / "order=original-gate_bias=-0.5-seed0")
    assert run["recipe"]["model_options"]["order"] == "original"
    error = 100 * (1 - run["history"][-1]["val_top1"])
    assert f"| first | {error:.2f}% | {error:.2f}% | 6.61% |" in first
    assert len((tmp_path / "out" / "orders.csv").read_text().splitlines()) == 1 + 2 * 2
    assert (tmp_path / "out" / "orders.png").stat().st_size > 10_000

    assert main(arguments) == 0
    assert "training order=" not in capsys.readouterr().out

    # Runs of another set are not taken for runs of this one, and neither are damaged ones.
    other = ["orders", "--data", "cifar10", *arguments[3:]]
    assert main(other) == main([*other, "--report"]) == 2
    said = capsys.readouterr().err
    assert said.count("holds a run of other images: 'digits' then, 'cifar10' now") == 2
    record = tmp_path / "runs" / "cpu" / "order=full_preactivation-seed0" / "run.json"
    whole = record.read_text()
    record.write_text(whole.replace('"history"', '"histories"'))
    assert main([*arguments, "--report"]) == 2
    assert f"{record} is damaged: it has no history of epochs" in capsys.readouterr().err
    record.write_text(whole[:-9])
    assert main([*arguments, "--report"]) == 2
    assert f"{record} is damaged" in capsys.readouterr().err


def test_the_same_images_may_be_spelled_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "run"
    folder.mkdir()
    for source, data in (
        ("set", str(tmp_path / "set")),
        (str(tmp_path / "set"), "~/set"),
        ("set", "./set/"),
        ("digits", "digits"),
    ):
        (folder / "run.json").write_text(json.dumps({"source": source}))
        check_data([folder, tmp_path / "later"], data)
        with pytest.raises(ValueError, match=re.escape(f"{source!r} then, 'other' now")):
            check_data([folder], "other")


def test_nothing_to_report_is_said(size, tmp_path, monkeypatch, capsys):
    arguments = ["orders", "shortcuts", "--data", "digits", "--runs", str(tmp_path), "--report"]
    assert main(arguments) == 2
    assert f"no run in {tmp_path / 'cpu'} has ended" in capsys.readouterr().err
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / f"{ROWS[0].folder}-seed0.diverged").touch()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| first | fails | fails | 6.61% |" in printed
    assert "No run of the table shortcuts has ended." in printed


@pytest.mark.parametrize("option", ["--seeds", "--processes"])
def test_numbers_of_runs_are_checked(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["orders", "--data", "digits", option, "0"])
    assert stopped.value.code == 2
    assert f"{option} must be 1 or more. Received: 0" in capsys.readouterr().err


def test_a_run_that_diverges_counts_as_failed(size, tmp_path, monkeypatch):
    options = (*reproduce.SIZES["cpu"].options, "--learning-rate", "1e30")
    monkeypatch.setitem(reproduce.SIZES, "cpu", Size(reproduce.SIZES["cpu"].recipe, options))
    reproduce.train_rows(ROWS[:1], reproduce.SIZES["cpu"], "digits", 1, tmp_path, 1)
    (result,) = results(ROWS, 1, tmp_path)
    assert result.row == ROWS[0]
    assert result.median_error == FAILS
    assert not results(ROWS, 2, tmp_path)[0].histories
    assert results(ROWS, 2, tmp_path)[0].diverged == (0,)


def test_any_other_failure_is_told(size, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(reproduce.TABLES, "orders", Table("Order of activation", ROWS[:1]))
    arguments = ["orders", "--data", str(tmp_path / "nothing"), "--seeds", "1"]
    assert main([*arguments, "--runs", str(tmp_path / "runs")]) == 1
    assert "failed with status 2" in capsys.readouterr().err


def test_ranks_are_compared_pair_by_pair():
    rows = [Row(str(error), {}, {"resnet110": error}) for error in (5.0, 6.0, FAILS, FAILS)]
    measured = [_result(row, value) for row, value in zip(rows, (0.8, 0.9, 0.7, 0.6), strict=True)]
    text = comparison(measured, "cpu")
    # Of six pairs the paper leaves the two failures unranked; only 5 against 6 is turned round.
    assert "Of the 5 pairs that the paper ranks, 4 are ranked alike" in text
    assert "here: 6.0, 5.0, inf, inf." in text


def test_the_median_of_an_even_number_counts_a_failure():
    assert Result(ROWS[0], {0: [{"val_top1": 0.9}]}, (1,)).median_error == FAILS


def test_tables_name_fields_that_exist():
    from keras_preact import BUILDERS

    for table in TABLES.values():
        for row in table.rows:
            for builder in ("PreActResNet110", "PreActResNet164"):
                BUILDERS[builder].architecture.replace(**row.options)
