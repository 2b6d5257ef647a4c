"""What the documentation tells readers to run: each block of code, command and notebook."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

import keras_preact

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# First lines of fenced blocks: what is run, what is written to a file for it, what only shows
# something, and what cannot be run, which says why.
BLOCKS = re.compile(r'python|shell|toml title="[\w.]+"|text|\w+ title="Not run by the tests: .+"')
SECONDS = 600


def _run_shell(example: Example) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{example.path}, line {example.line}:\n{done.stdout}"


class _FileParser:
    """Blocks of TOML with a title, which is the name of the file to write."""

    def __init__(self) -> None:
        self._lexer = RawFencedCodeBlockLexer(re.compile(r'toml title="(?P<name>[\w.]+)"\n'))

    def __call__(self, document: Document) -> list[Region]:
        return [
            Region(region.start, region.end, region.lexemes, self._write)
            for region in self._lexer(document)
        ]

    @staticmethod
    def _write(example: Example) -> None:
        Path(example.parsed["name"]).write_text(example.parsed["source"])


PYTHON = Sybil([PythonCodeBlockParser(), _FileParser()])
ALL = Sybil([PythonCodeBlockParser(), _FileParser(), CodeBlockParser("shell", _run_shell)])


def _pages_with(language: str) -> list[str]:
    return [name for name, path in PAGES.items() if f"```{language}\n" in path.read_text()]


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, from which the modules of the checkout are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    return tmp_path


def _run(sybil: Sybil, page: str) -> None:
    for example in sybil.parse(PAGES[page]).examples():
        example.evaluate()


@pytest.mark.parametrize("page", _pages_with("python"))
def test_python_runs(page, checkout):
    _run(PYTHON, page)


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages_with("shell"))
def test_commands_run(page, checkout):
    # What the page's Python writes, its commands may read.
    _run(ALL, page)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_is_run_or_says_why_not(page):
    fences = re.findall(r"^ *```(.*)$", PAGES[page].read_text(), re.MULTILINE)
    strange = [info for info in fences[::2] if not BLOCKS.fullmatch(info)]
    assert not strange
    assert not any(fences[1::2])


# Each takes longer than 20 s, in a process of its own. `make docs` runs them too.
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, checkout):
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    folder = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources=folder).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_the_library_s_public_names_are_in_the_api():
    directives = re.findall(
        r"^::: (\S+)",
        "".join(path.read_text() for path in (DOCS / "api").glob("*.md")),
        re.MULTILINE,
    )
    # Those of `keras_preact.applications` come from its own table.
    names = {f"keras_preact.{name}" for name in keras_preact.__all__ if name != "__version__"}
    builders = {f"keras_preact.{name}" for name in [*keras_preact.BUILDERS, "BUILDERS"]}
    assert names - builders <= set(directives)
    assert "keras_preact.applications" in directives
