"""Runs of pytest side by side, and the line that sums them up."""

from __future__ import annotations

import sys

import pytest

from tests import suites
from tests.suites import SUITES, Suite, run_all

PASSES = "def test_one(): pass\n"
FAILS = "def test_two(): assert False\n"
SKIPS = "import pytest\n\ndef test_three(): pytest.skip('no reason')\n"


def suite(folder, title, text, *arguments):
    """Return a suite of one file that imports nothing of this project."""
    file = folder / f"test_{title}.py"
    file.write_text(text)
    return Suite(
        title,
        (str(file), "--noconftest", *arguments),
        {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


def last_line(capsys):
    return capsys.readouterr().out.splitlines()[-1]


def test_all_suites_run_though_the_first_one_fails(tmp_path, capsys):
    both = [suite(tmp_path, "first", FAILS + PASSES), suite(tmp_path, "second", PASSES + SKIPS)]
    assert run_all(both, tmp_path) == 1
    first, second = last_line(capsys).split("; ")
    assert first.startswith("first 1 failed, 1 passed in ")
    assert second.startswith("second 1 passed, 1 skipped in ")


def test_suites_that_pass_exit_with_0(tmp_path, capsys):
    assert run_all([suite(tmp_path, "only", PASSES)], tmp_path) == 0
    assert last_line(capsys).startswith("only 1 passed in ")


def test_a_suite_without_a_test_fails(tmp_path, capsys):
    assert run_all([suite(tmp_path, "empty", "")], tmp_path) == 1
    assert last_line(capsys).startswith("empty no test ran in ")


def test_a_suite_that_cannot_start_fails(tmp_path, capsys):
    assert run_all([suite(tmp_path, "unknown", "", "--no-such-option")], tmp_path) == 1
    assert last_line(capsys).startswith("unknown stopped with status 4 in ")


def test_no_suite_sees_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    seen = "import os\n\ndef test_gpu(): assert os.environ['CUDA_VISIBLE_DEVICES'] == ''\n"
    assert run_all([suite(tmp_path, "gpu", seen)], tmp_path) == 0


@pytest.mark.parametrize("names", [[], ["jax"], ["torch", "onednn-off"]])
def test_the_command_takes_names_or_none(names, monkeypatch):
    monkeypatch.setattr(suites, "run_all", list)
    monkeypatch.setattr(sys, "argv", ["suites.py", *names])
    assert suites.main() == [SUITES[name] for name in names or SUITES]
