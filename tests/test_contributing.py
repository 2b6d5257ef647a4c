"""CONTRIBUTING.md names files, symbols, commands and marks that exist, others only targets."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
PLACES = [each for each in CODE if re.fullmatch(r"[\w./-]+(\.\w+|/)(::[\w.]+)?", each)]


def _names(body: list[ast.stmt]) -> set[str]:
    """Return the functions, classes, fields and constants of a module, and of its classes."""
    names = set()
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            names |= {f"{statement.name}.{name}" for name in _names(statement.body)}
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = getattr(statement, "targets", None) or [statement.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("place", PLACES)
def test_places_exist(place):
    path, _, name = place.partition("::")
    file = ROOT / path
    assert file.is_dir() if path.endswith("/") else file.is_file()
    if name:
        assert name in _names(ast.parse(file.read_text(encoding="utf-8")).body)


def _targets(path: Path) -> set[str]:
    """Return what `make` is to make by the code of a page, without variables such as `PYTHON=…`."""
    code = re.findall(r"^ *```.*?^ *```|`[^`]+`", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^`?make (.+?)`?$", "\n".join(code), re.MULTILINE)
    return {word for command in commands for word in command.split() if "=" not in word}


PAGES = ["CONTRIBUTING.md", "README.md", "constraints.txt", "savedmodels/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
TARGETS = [(page, target) for page in PAGES for target in sorted(_targets(ROOT / page))]


@pytest.mark.parametrize(("page", "target"), TARGETS)
def test_commands_are_targets_of_the_makefile(page, target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^({target}:|SUITES := .*\b{target}(?![\w-]))", makefile, re.MULTILINE)


def test_targets_are_found_on_every_kind_of_page():
    assert {"README.md", "constraints.txt", "docs/guides/train.md"} <= {page for page, _ in TARGETS}


def test_marks_are_those_of_pytest():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    marks = {each.split(":")[0] for each in settings["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(re.findall(r"^- `(\w+)` is for", TEXT, re.MULTILINE)) == marks


def test_the_checklists_name_places():
    for title in ("Add an attention", "Add a kind of unit", "Add a published net"):
        section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        assert sum(f"`{place}`" in section for place in PLACES) >= 4
