"""Error messages: what was expected and received, and the name that was probably meant."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

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
