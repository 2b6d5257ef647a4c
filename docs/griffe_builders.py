"""Documentation of the builders of published nets, whose docstrings are made at import."""

from __future__ import annotations

import inspect
from typing import Any

import griffe

import keras_preact


class Builders(griffe.Extension):
    """Docstrings of builders, from the imported package instead of from its source."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Take the docstring of `PreActResNet`, part of which is added at import."""
        if func.path == "keras_preact.applications.PreActResNet":
            func.docstring = _docstring(keras_preact.PreActResNet, func)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Take the description of each published net, without the arguments, which are common."""
        builder = keras_preact.BUILDERS.get(attr.name)
        if builder and attr.path == f"keras_preact.applications.{attr.name}":
            attr.docstring = _docstring(builder, attr, until="Args:")
            # The call that makes the builder is of no use to a reader.
            attr.value = None


def _docstring(source: Any, parent: griffe.Object, until: str | None = None) -> griffe.Docstring:
    return griffe.Docstring(inspect.getdoc(source).split(until)[0].strip(), parent=parent)
