"""Documents the builders of published nets: a function makes them and their docstrings."""

from __future__ import annotations

import inspect
from typing import Any

import griffe

import keras_preact


class Builders(griffe.Extension):
    """Takes the docstrings of builders from the imported package instead of from its source."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """`PreActResNet`, part of whose docstring is added to it."""
        if func.path == "keras_preact.applications.PreActResNet":
            func.docstring = _docstring(keras_preact.PreActResNet, func)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """The published nets: what each is. Their arguments are those of `PreActResNet`."""
        builder = keras_preact.BUILDERS.get(attr.name)
        if builder and attr.path == f"keras_preact.applications.{attr.name}":
            attr.docstring = _docstring(builder, attr, until="Args:")
            # The call that makes it says nothing to a reader.
            attr.value = None


def _docstring(source: Any, parent: griffe.Object, until: str | None = None) -> griffe.Docstring:
    return griffe.Docstring(inspect.getdoc(source).split(until)[0].strip(), parent=parent)
