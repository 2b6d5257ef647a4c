"""The documentation: its code, commands, notebooks, links and pictures."""

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
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
PAGES = {"README.md": README} | {
    str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))
}
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
# The others take longer than 20 s.
QUICK_NOTEBOOKS = {"depth"}
# First lines of fenced blocks: run, written to a file, only shown, or not run, with the reason.
BLOCKS = re.compile(r'python|shell|toml title="[\w.]+"|text|\w+ title="Not run by the tests: .+"')
SECONDS = 600
# Targets of links and pictures in Markdown, without those in code.
LINKS = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


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
    """Return a folder to work in, with the documentation and the modules of the checkout."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(DOCS)
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
    # The commands may read files that the page's Python writes.
    _run(ALL, page)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_is_run_or_says_why_not(page):
    fences = re.findall(r"^ *```(.*)$", PAGES[page].read_text(), re.MULTILINE)
    strange = [info for info in fences[::2] if not BLOCKS.fullmatch(info)]
    assert not strange
    assert not any(fences[1::2])


def _relative_links(path: Path) -> list[str]:
    links = LINKS.findall(CODE.sub("", path.read_text()))
    return [link for link in links if "://" not in link]


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown renderers make them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path",
    [*PAGES.values(), *sorted(RESULTS.rglob("*.md")), ROOT / "savedmodels" / "README.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_relative_links_and_pictures_exist(path):
    for link in _relative_links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        # Those of the API come from docstrings; the build of the site checks them.
        if anchor and DOCS / "api" not in target.parents:
            assert anchor in _anchors(target), link


def test_pages_of_the_site_link_only_to_the_site():
    # Elsewhere in the checkout, a link would break on the site.
    for name, path in PAGES.items():
        for link in _relative_links(path) if name != "README.md" else ():
            assert (path.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), name


def test_every_picture_is_shown():
    shown = {
        (path.parent / link).resolve() for path in PAGES.values() for link in _relative_links(path)
    }
    # The code of the pages reads the photograph.
    pictures = set((DOCS / "images").rglob("*.*")) - {DOCS / "images" / "cat.jpg"}
    assert pictures
    assert pictures <= shown


def test_the_site_s_plot_of_depth_is_the_measured_one():
    assert (DOCS / "images" / "depth.png").read_bytes() == (RESULTS / "depth.png").read_bytes()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("files", ["", "https://example.org/blob/v1"])
def test_the_readme_on_a_package_index_has_absolute_links(files):
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "--long-description"],
        cwd=ROOT,
        env=os.environ | {"KERAS_PREACT_FILES": files},
        capture_output=True,
        check=True,
        text=True,
    )
    links = LINKS.findall(CODE.sub("", done.stdout))
    assert links
    assert all(link.startswith("https://") for link in links)
    assert any(link.startswith(files + "/docs/images/") for link in links) == bool(files)


def test_every_result_is_in_the_index():
    index = RESULTS / "README.md"
    linked = {(RESULTS / link).resolve() for link in _relative_links(index)}
    results = {path for path in RESULTS.iterdir() if path.is_dir() or path.suffix == ".md"} - {
        index
    }
    assert len(results) > 20
    missing = {
        result
        for result in results
        if not any(link == result or result in link.parents for link in linked)
    }
    assert not missing


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, id=path.stem, marks=() if path.stem in QUICK_NOTEBOOKS else pytest.mark.slow
        )
        for path in NOTEBOOKS
    ],
)
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
