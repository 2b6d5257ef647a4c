"""Documentation of the objects whose docstrings are made when the package is imported."""

from __future__ import annotations

import inspect
from typing import Any

import griffe

import keras_preact


class Builders(griffe.Extension):
    """An extension that takes docstrings from the imported package instead of from its source."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Document `Architecture`, whose arguments are the fields of `keras_preact.spec.fields`."""
        if cls.name == "Architecture":
            cls.docstring = _docstring(keras_preact.Architecture, cls)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Document `PreActResNet`, whose docstring has the arguments of all builders."""
        if func.path == "keras_preact.applications.PreActResNet":
            func.docstring = _docstring(keras_preact.PreActResNet, func)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Document the published nets. Their arguments are those of `PreActResNet`."""
        builder = keras_preact.BUILDERS.get(attr.name)
        if builder and attr.path == f"keras_preact.applications.{attr.name}":
            attr.docstring = _docstring(builder, attr, until="Args:")
            # The call that makes the builder is of no use to a reader.
            attr.value = None


def _docstring(source: Any, parent: griffe.Object, until: str | None = None) -> griffe.Docstring:
    return griffe.Docstring(inspect.getdoc(source).split(until)[0].strip(), parent=parent)
