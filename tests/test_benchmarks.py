"""Benchmarks measure what they say, say what was run, and lose nothing that was measured."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from benchmarks import depth, first_steps, growth, search, seconds_to_accuracy
from benchmarks.command import command_line
from benchmarks.hyper_resnet import Account
from benchmarks.report import Report
from benchmarks.workers import in_a_new_process
from keras_preact.analysis import Cost
from training.cores import usable_cores
from training.net import recipe_architecture
from training.recipe import Recipe
from training.run import read_run
from training.train import named_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Their processes begin with the import of the module, and some of them run a peer.
MEASURED = ("depth", "flat_nets", "gpu_step", "inference", "profile_inference", "serving")
FRAMEWORKS = {"jax", "keras", "keras_preact", "tensorflow", "torch"}


def test_processes_that_are_measured_begin_without_a_framework():
    """Else a peer's memory holds Keras, and Keras is imported before the clock starts."""
    imports = ", ".join(f"benchmarks.{name}" for name in MEASURED)
    code = f"import sys, {imports}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {"benchmarks.workers", "savedmodels.runtimes", "training.process_memory"} <= found
    assert not FRAMEWORKS & found


def test_a_process_that_is_killed_is_not_waited_for():
    with pytest.raises(BrokenProcessPool):
        in_a_new_process(os.abort)


def test_cores_are_counted_where_the_system_tells_none_of_this_process(monkeypatch):
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


def test_the_command_is_recorded_as_it_was_run(monkeypatch):
    for name in ("KERAS_BACKEND", "KERAS_PREACT_WITHOUT", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.delenv(name, raising=False)
    given = ["run", "--data", "/home/me/cifar-10-batches-bin", "--steps", "3", "--output", "a b"]
    line = "python -m benchmarks.x run --data DATA/cifar-10-batches-bin --steps 3 --output 'a b'"
    assert command_line("benchmarks.x", given) == line
    assert command_line("x", ["--data=../faces", "--data", "digits"]).endswith(
        "x --data=DATA/faces --data digits"
    )
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setattr(sys, "argv", ["x.py", "--rounds", "2"])
    assert command_line("x") == "KERAS_BACKEND=jax TF_ENABLE_ONEDNN_OPTS=0 python -m x --rounds 2"


def test_a_report_is_prepared_before_anything_is_measured(tmp_path, capsys):
    with pytest.raises(Exception, match="no-such-package"):
        Report("Title", "python -m x", ("keras", "no-such-package"))
    file = tmp_path / "new" / "result.md"
    report = Report("Title", "python -m x", ("keras",), file)
    assert file.parent.is_dir() and not file.exists()
    report.write("Body", "a GPU")
    assert file.read_text() == capsys.readouterr().out.removesuffix("\n")
    assert "- Command: `python -m x`\n- Device: a GPU\n- Versions: keras 3." in file.read_text()


def test_depth_keeps_every_net_that_was_measured(tmp_path, monkeypatch):
    def measure(function, form, layers, steps, started):
        if form == "PyTorch":
            raise BrokenProcessPool
        return depth.Cost(form, layers, 1.0, 2.0, 3.0, 4.0, 5.0)

    monkeypatch.setattr(depth, "in_a_new_process", measure)
    output = tmp_path / "depth.md"
    options = argparse.Namespace(depths=[11], forms=["separate", "PyTorch"], steps=1, output=output)
    with pytest.raises(BrokenProcessPool):
        depth.measure_all(options)
    kept = json.loads(output.with_suffix(".json").read_text())
    assert [each["form"] for each in kept] == ["separate"]


def bench(folder: Path) -> search.Benchmark:
    return search.Benchmark(Path("DATA"), folder, folder, 1, ())


def test_a_net_that_was_not_trained_as_it_is_costed_is_refused(tmp_path):
    recipe = bench(tmp_path).recipe
    options = {**recipe.model_options, "stem_channels": 8}
    trained = dataclasses.asdict(recipe.replace(model_options=options))
    (tmp_path / "run.json").write_text(json.dumps({"recipe": trained}))
    costed = Cost(parameters=272538, flops=10601088)
    with pytest.raises(RuntimeError, match="must have 10,601,088 flops"):
        bench(tmp_path).tested(tmp_path, tmp_path / "log", costed)


def test_processor_seconds_of_a_search_add_up_or_are_refused(tmp_path):
    spent = tmp_path / "seconds.json"
    busy = "import time\nwhile time.process_time() < 0.1: pass"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="failed"), search.accounted(spent):
            subprocess.run([sys.executable, "-c", busy], check=True)
            raise RuntimeError("the command failed")
    assert 0.2 <= json.loads(spent.read_text()) < 10
    with search.accounted(spent):
        assert json.loads(spent.read_text()) is None
        killed = spent.read_text()
    spent.write_text(killed)
    with pytest.raises(RuntimeError, match="lost"), search.accounted(spent):
        pass
    # Where earlier versions kept them.
    assert bench(tmp_path).spent == tmp_path / "search_processor_seconds.json"
    earlier = tmp_path / "search" / "processor_seconds.json"
    earlier.parent.mkdir()
    earlier.write_text("1549.9")
    assert search.seconds_of(bench(tmp_path).spent) == 1549.9


def test_finished_work_of_other_options_is_refused(tmp_path):
    crew = search.Crew(1)
    (tmp_path / "1_worker.json").write_text(json.dumps({"command": ["training.tune"], "hours": 1}))
    with pytest.raises(ValueError, match="another command"):
        search._searched_by(bench(tmp_path), crew)

    account = Account(tmp_path / "account.json", 10.0, {"data": "a"})
    account.values["test_top1"] = 0.5
    account.save()
    assert Account(tmp_path / "account.json", 10.0, {"data": "a"}).done
    assert not Account(tmp_path / "account.json", 20.0, {"data": "a"}).done
    with pytest.raises(ValueError, match="data: 'a' then, 'b' now"):
        Account(tmp_path / "account.json", 10.0, {"data": "b"})

    steps = tmp_path / "steps.csv"
    assert first_steps.recorded(steps, {"seed": 0}) == []
    steps.write_text("step,loss\n1,2.5\n")
    assert first_steps.recorded(steps, {"seed": 0}) == [{"step": 1, "loss": 2.5}]
    with pytest.raises(ValueError, match="seed: 0 then, 1 now"):
        first_steps.recorded(steps, {"seed": 1})


def test_work_of_earlier_versions_goes_on(tmp_path, capsys):
    """They did not say of which options it was."""
    (tmp_path / "account.json").write_text('{"seconds": 1.0, "epochs": []}')
    assert Account(tmp_path / "account.json", 10.0, {"data": "a"}).values["seconds"] == 1.0
    (tmp_path / "steps.csv").write_text("step,loss\n1,2.5\n")
    assert first_steps.recorded(tmp_path / "steps.csv", {"seed": 1}) == [{"step": 1, "loss": 2.5}]
    assert "steps.csv has no steps.json beside it" in capsys.readouterr().out


def test_commands_in_docstrings_name_folders_of_images():
    """Some read no set by its name, and none downloads one before it measures."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        for data in re.findall(r"--data (\S+)", docstring):
            assert data.startswith(("DATA/", "DIR", "runs/")), path.name


def test_seconds_of_an_interrupted_run_are_refused(tmp_path):
    run = tmp_path / "cifar_fast_0"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"status": "running"}))
    options = argparse.Namespace(output=tmp_path)
    with pytest.raises(SystemExit, match="was interrupted"):
        seconds_to_accuracy.run("cifar_fast", 0, options)


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_a_measure_that_says_the_same_of_all_nets_keeps_the_best_by_chance(monkeypatch):
    from benchmarks import rank_rungs

    monkeypatch.setattr(rank_rungs, "BOOTSTRAPS", 2)
    final = [0.6] * 3 + [0.5] * 21
    rows = [rank_rungs.row("nothing", [1.0] * 24, each) for each in (final, final[::-1])]
    for *_, kept, lost in rows:
        assert 1.3 < float(kept.removesuffix(" of 3")) < 1.7
        # In a ninth of the orders none of the three is kept, and ten points are lost.
        assert 0.7 < float(lost) < 1.5
    assert rank_rungs.row("all", final, final)[-2:] == ["3 of 3", "0.0"]


def test_runs_of_other_images_are_an_error_of_the_command(tmp_path, capsys):
    run = growth.Plan("a", 60_000, tmp_path).folder("from scratch", 0, 0)
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"source": "b"}))
    given = ["--data", "a", "--runs", str(tmp_path), "--output", str(tmp_path / "results")]
    assert growth.main(given) == 2
    assert "holds a run of other images" in capsys.readouterr().err


def test_a_pipeline_is_measured_in_more_rounds_than_the_first(monkeypatch, capsys):
    # The module sets it when it is imported.
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setattr(sys, "argv", ["x", "--archive", "x.tar", "--rounds", "1"])
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.input_pipeline").main()
    assert "--rounds: must be 2 or more. Received: 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", [path.parent.name for path in RESULTS.glob("*/recipe.toml")])
def test_a_recipe_of_the_results_builds_the_net_that_was_trained(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    recorded = Recipe(**read_run(RESULTS / name)["recipe"])
    recipe = named_recipe(["--recipe", str(RESULTS / name / "recipe.toml")])
    assert recipe_architecture(recipe) == recipe_architecture(recorded)
