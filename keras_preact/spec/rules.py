"""Allowed values of the fields of `Architecture`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_preact.messages import require


@dataclass(frozen=True)
class Rule:
    """Allowed values of one field.

    Attributes:
        holds: Whether a value is allowed.
        expected: Completes "must be …" in the error message.
        choices: All allowed values, where they are few and named; else empty.
        sequences: Whether sequences are allowed. `check` makes tuples of them.
    """

    holds: Callable[[Any], bool]
    expected: str
    choices: tuple[Any, ...] = ()
    sequences: bool = False

    def check(self, name: str, value: Any) -> Any:
        """Check the value of a field or an argument.

        Args:
            name: Its name.
            value: Its value.

        Returns:
            The value, its numbers and names as Python's own.

        Raises:
            ValueError: If the value is not allowed.
        """
        value = plain(as_tuple(value) if self.sequences else value)
        require(self.holds(value), name, self.expected, value)
        return value


def plain(value: Any) -> Any:
    """Convert numbers and names of other kinds, such as NumPy's, to Python's, which JSON can hold.

    Args:
        value: Any value.

    Returns:
        A bool, int or float for a number, a string for one of NumPy's, a list for an array, the
        same kind of sequence for a list or tuple, a dictionary for a mapping; anything else as it
        is.
    """
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.str_):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


# They can be iterated over, but are no sequences of values: text, and whatever has no order.
_NO_SEQUENCES = (str, bytes, bytearray, Mapping, set, frozenset)


def as_tuple(value: Any) -> Any:
    """Make a tuple of values that come in an order, which a generator yields only once.

    Args:
        value: Any value.

    Returns:
        A tuple for a sequence, an array, a generator and the like; anything else as it is.
    """
    is_scalar = getattr(value, "ndim", None) == 0
    if is_scalar or not isinstance(value, Iterable) or isinstance(value, _NO_SEQUENCES):
        return value
    return tuple(value)


def of_word(value: Any, rule: Rule) -> Any:
    """Return the value that a word in a text stands for: None for "none", unless a rule allows it.

    Args:
        value: The word, or any other value, which is returned as it is.
        rule: Allowed values. Where "none" is one of them, it stands for itself.
    """
    return None if value == "none" and rule.holds(None) and not rule.holds("none") else value


def one_of(choices: Iterable[Any]) -> Rule:
    """Allow a few values. 1 does not stand for True."""
    choices = tuple(choices)
    return Rule(
        lambda value: any(type(value) is type(each) and value == each for each in choices),
        f"one of {choices}",
        choices,
    )


def number(in_range: Callable[[float], bool], expected: str) -> Rule:
    """Allow finite numbers for which `in_range` holds."""
    return Rule(
        lambda value: _is_number(value) and math.isfinite(value) and in_range(value),
        f"a number {expected}",
    )


def whole_number(least: int) -> Rule:
    """Allow integers from `least`."""
    return Rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"a whole number of at least {least}",
    )


def or_none(rule: Rule) -> Rule:
    """Allow None, and the values that a rule allows."""
    return Rule(
        lambda value: value is None or rule.holds(value),
        f"None or {rule.expected}",
        (None, *rule.choices) if rule.choices else (),
        rule.sequences,
    )


def or_each(rule: Rule) -> Rule:
    """Allow the values that a rule allows, and sequences of them with one for each stage."""
    return Rule(
        lambda value: (
            all(map(rule.holds, value)) if isinstance(value, list | tuple) else rule.holds(value)
        ),
        f"{rule.expected}, or a sequence of such values, one for each stage",
        sequences=True,
    )


def is_positive_integer(value: Any) -> bool:
    """Return whether a value is an integer above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def are_positive_integers(values: Any) -> bool:
    """Return whether a value is a list or tuple, not empty, of integers above 0."""
    is_sequence = isinstance(values, list | tuple) and len(values) > 0
    return is_sequence and all(map(is_positive_integer, values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return value == 0 and type(value) is int or is_positive_integer(value)


# Keras's gated linear unit halves the channels, and its threshold needs arguments.
_NO_ACTIVATIONS = ("glu", "threshold")


def _is_activation(value: Any) -> bool:
    try:
        known = isinstance(value, str) and bool(keras.activations.get(value))
    except ValueError:
        return False
    return known and value not in _NO_ACTIVATIONS


BOOLEAN = one_of((True, False))
POSITIVE_INTEGER = Rule(is_positive_integer, "a positive integer")
COUNT = Rule(_is_count, "an integer of at least 0")
A_VALUE_EACH_STAGE = Rule(
    are_positive_integers, "a sequence of positive integers, one for each stage", sequences=True
)
A_VALUE_EACH_UNIT = Rule(are_positive_integers, "a sequence of positive integers", sequences=True)
POSITIVE = number(lambda value: value > 0, "above 0")
NUMBER = number(lambda value: True, "of any size")
SHARE = number(lambda value: 0 < value <= 1, "in (0, 1]")
RATE = number(lambda value: 0 <= value < 1, "in [0, 1)")
ACTIVATION = Rule(_is_activation, "the name of a Keras activation that keeps the shape")
