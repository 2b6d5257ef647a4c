"""Error messages: what was expected and received, and the name that was probably meant."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
from collections.abc import Iterable
from typing import Any, TypeVar

# Below this similarity, from 0 to 1, a name is not suggested. It is the default of `difflib`.
_CLOSE = 0.6
# Similarity of a name that contains all words of another: `norm_layer` and `norm`.
_SAME_WORDS = 0.8


def require(holds: bool, name: str, expected: str, received: Any) -> None:
    """Raise an error that says what an argument must be, unless a condition holds.

    Args:
        holds: The condition.
        name: Name of the argument.
        expected: Completes "must be …" in the message.
        received: Value of the argument.

    Raises:
        ValueError: If the condition does not hold.
    """
    if not holds:
        raise ValueError(f"`{name}` must be {expected}. Received: {received!r}")


def without_operations(message: str) -> str:
    """Return an error message of TensorFlow's without the names of its operations."""
    return re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", message)


def did_you_mean(name: str, choices: Iterable[str], quote: str = "`") -> str:
    """Suggest the choice that a misspelt name is closest to.

    Upper and lower case count as equal. A choice such as `"timm/resnetv2_50.a1h_in1k"` may be
    given without the part before its slash.

    Args:
        name: The name that was received.
        choices: The names that exist. Of those that are equally close, the one that begins like
            the name is suggested, else the first.
        quote: Mark around the suggestion: a backtick for names in code, `"'"` for values.

    Returns:
        A sentence with a space before it, such as ``" Did you mean `weights`?"``. The empty string
        if no choice is close.
    """

    def closeness(choice: str) -> tuple[float, int]:
        return _similarity(name, choice), len(os.path.commonprefix([name, choice]))

    best = max(choices, key=closeness, default=None)
    if best is None or _similarity(name, best) < _CLOSE:
        return ""
    return f" Did you mean {quote}{best}{quote}?"


AnyClass = TypeVar("AnyClass", bound=type)


def suggesting_arguments(cls: AnyClass) -> AnyClass:
    """Make a class answer a misspelt argument with the one that was probably meant.

    Args:
        cls: A class, such as a dataclass, whose constructor takes arguments by name.

    Returns:
        The same class, whose constructor raises a `TypeError` for other names.
    """
    construct = cls.__init__
    known = list(inspect.signature(cls).parameters)

    @functools.wraps(construct)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"`{cls.__name__}()` has no argument `{name}`.{did_you_mean(name, known)} "
                    f"Its arguments are {known}."
                )
        construct(self, *args, **kwargs)

    cls.__init__ = checked
    return cls


def _similarity(name: str, choice: str) -> float:
    """Return how alike two names are, from 0 to 1."""
    name, choice = name.lower(), choice.lower()
    # SequenceMatcher is not symmetric; `difflib.get_close_matches` passes the names in this order.
    ratio = max(
        difflib.SequenceMatcher(None, each, name).ratio()
        for each in {choice, choice.rsplit("/", 1)[-1]}
    )
    contained = set(choice.split("_")) <= set(name.split("_"))
    return max(ratio, _SAME_WORDS) if contained else ratio
