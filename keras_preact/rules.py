"""What the values of `Architecture`'s fields may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Rule:
    """What one value may be.

    Attributes:
        holds: Whether a value is allowed.
        expected: What is, to go on from "must be".
        choices: All allowed values, where they are few and named; else empty.
    """

    holds: Callable[[Any], bool]
    expected: str
    choices: tuple[Any, ...] = ()


def one_of(choices: Iterable[Any]) -> Rule:
    """One of a few names; 1 does not stand for True."""
    choices = tuple(choices)
    return Rule(
        lambda value: any(type(value) is type(each) and value == each for each in choices),
        f"one of {choices}",
        choices,
    )


def number(in_range: Callable[[float], bool], expected: str) -> Rule:
    """A finite number for which `in_range` holds."""
    return Rule(
        lambda value: _is_number(value) and math.isfinite(value) and in_range(value),
        f"a number {expected}",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_positive_integer(value: Any) -> bool:
    """Whether a value is an integer above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_count(value: Any) -> bool:
    return value == 0 and type(value) is int or is_positive_integer(value)


def are_positive_integers(values: Any) -> bool:
    """Whether a value is a sequence, not empty, of integers above 0."""
    return (
        isinstance(values, Iterable)
        and not isinstance(values, str | dict)
        and len(tuple(values)) > 0
        and all(is_positive_integer(value) for value in values)
    )


def or_none(rule: Rule) -> Rule:
    """None, or what the rule says."""
    return Rule(
        lambda value: value is None or rule.holds(value),
        f"None or {rule.expected}",
        (None, *rule.choices) if rule.choices else (),
    )


# Of Keras's activations, a gated linear unit halves the channels and a threshold needs arguments.
_NO_ACTIVATIONS = ("glu", "threshold")


def or_each(rule: Rule) -> Rule:
    """What the rule says, or a list of such values, one for each stage."""
    return Rule(
        lambda value: (
            all(map(rule.holds, value)) if isinstance(value, list | tuple) else rule.holds(value)
        ),
        f"{rule.expected}, or a sequence of such values, one for each stage",
    )


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
    are_positive_integers, "a sequence of positive integers, one for each stage"
)
A_VALUE_EACH_UNIT = Rule(are_positive_integers, "a sequence of positive integers")
POSITIVE = number(lambda value: value > 0, "above 0")
NUMBER = number(lambda value: True, "of any size")
SHARE = number(lambda value: 0 < value <= 1, "in (0, 1]")
RATE = number(lambda value: 0 <= value < 1, "in [0, 1)")
ACTIVATION = Rule(_is_activation, "the name of a Keras activation that keeps the shape")
