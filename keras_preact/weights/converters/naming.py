"""Two-way translation of names, by pairs of templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# A number in a template, and the first value that it takes: `{stage:2}`.
_NUMBER = re.compile(r"\{(?P<field>\w+):(?P<first>\d+)\}")


@dataclass(frozen=True)
class Naming:
    """Names that another library gives to what a net consists of, each with ours.

    A template is a name with numbers: `stages.{stage:0}` and `stage{stage:2}` pair the name of a
    stage where the first is 0 with that of the same stage where the first is 2.

    Attributes:
        modules: Templates of a layer: theirs, and ours.
        entries: Templates of a variable by its whole name, `layer/variable` here, which are tried
            before those of layers.
    """

    modules: Mapping[str, str]
    entries: Mapping[str, str]

    def ours(self, name: str, variables: Mapping[str, str]) -> tuple[str, str] | None:
        """Translate the name of one of their variables.

        Args:
            name: `module.variable`.
            variables: Their names of the variables of such a layer, each with ours.

        Returns:
            The layer and its variable; None if the library has no such name.
        """
        if whole := _translated(name, self.entries.items()):
            layer, _, variable = whole.partition("/")
            return layer, variable
        module, _, variable = name.rpartition(".")
        layer = _translated(module, self.modules.items())
        return (layer, variables[variable]) if layer and variable in variables else None

    def theirs(self, layer: str, variable: str, variables: Mapping[str, str]) -> str | None:
        """Translate the names of a layer and its variable; the inverse of `ours`."""
        if whole := _translated(f"{layer}/{variable}", _swapped(self.entries)):
            return whole
        module = self.their_module(layer)
        names = {ours: theirs for theirs, ours in variables.items()}
        return f"{module}.{names[variable]}" if module and variable in names else None

    def their_module(self, layer: str) -> str | None:
        """Translate the name of a layer; None if the library has no such one."""
        return _translated(layer, _swapped(self.modules))


def _swapped(templates: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    return ((target, source) for source, target in templates.items())


def _translated(name: str, templates: Iterable[tuple[str, str]]) -> str | None:
    """Translate a name by the first pair of templates whose first it fits."""
    for source, target in templates:
        pattern = _NUMBER.sub(r"(?P<\g<field>>\\d+)", source.replace(".", r"\."))
        if match := re.fullmatch(pattern, name):
            first = {each["field"]: int(each["first"]) for each in _NUMBER.finditer(source)}
            return _filled(target, {field: int(match[field]) - first[field] for field in first})
    return None


def _filled(template: str, counts: Mapping[str, int]) -> str:
    """Return a template with numbers, counted from 0, in their places."""
    return _NUMBER.sub(lambda each: str(counts[each["field"]] + int(each["first"])), template)
