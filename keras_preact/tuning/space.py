"""A search space: which fields of an architecture vary, and over what."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_preact.architecture import RULES
from keras_preact.messages import did_you_mean, suggesting_arguments
from keras_preact.spec.rules import POSITIVE, POSITIVE_INTEGER, Rule, number, of_word, plain
from keras_preact.tuning.regnet import NUMBERS

# Values of the optimizer that may vary.
OPTIMIZER = {"learning_rate": POSITIVE, "weight_decay": number(lambda value: value >= 0, "from 0")}
# Fields of `Architecture` that have lists of their own, or that no search may change.
_NOT_CHOICES = {
    "units": "give `units`",
    "channels": "give `channels` or `widen`",
    "strides": "the strides stay as they are",
}

# Options of one stage, or a list of them per stage.
Counts = tuple[int, ...] | tuple[tuple[int, ...], ...]


@suggesting_arguments
@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Fields of an architecture that vary in a search; all others stay as they are.

    Args:
        units: Residual units that a stage may have; every stage chooses for itself. Or one such
            list for each stage.
        channels: Output channels that a stage may have, in the same form.
        widen: Factors of the net's channels, one for all stages, in place of `channels`. They
            multiply the width of the 3x3 convolutions: where the net's unit is another kind than
            a candidate's bottleneck, that has `1 / bottleneck_ratio` times the channels around it,
            as between ResNet-34 and ResNet-50 (arXiv:1512.03385, table 1). Where a budget is
            filled it decides the width, and these factors are left out.
        regnet: Options of the numbers of RegNet's rule (arXiv:2003.13678, section 3.3), in place of
            `units`, `channels` and `widen`: of `depth`, the number of units; of `slope`, the
            growth of the width from unit to unit, in widths of the first; of `multiplier`, the
            step from one quantized width to the next, by default the one that gives the net its
            number of stages; and of `width`, the channels of the first stage, by default the net's
            own. They are channels of the net's kind of unit, as with `widen`: a candidate of
            another kind has 3x3 convolutions of the same width.
        choices: By name of any other field of `keras_preact.Architecture`, the values that it may
            have, such as `{"unit": ("basic", "bottleneck"), "attention": (None, "se")}`. The word
            "none" stands for None where the field may be None.
        learning_rate: Peak learning rates.
        weight_decay: Weight decays.

    Raises:
        ValueError: If nothing varies, a name is unknown, or a value is out of its range or twice
            there.
        TypeError: If there is no such argument.
    """

    units: Counts = ()
    channels: Counts = ()
    widen: tuple[float, ...] = ()
    regnet: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    learning_rate: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("units", "channels"):
            object.__setattr__(self, name, _counts(name, getattr(self, name)))
        for name, rule in {"widen": POSITIVE, **OPTIMIZER}.items():
            values = _sequence(name, getattr(self, name))
            checked = _options(name, values, rule, float) if values else ()
            object.__setattr__(self, name, checked)
        if not isinstance(self.choices, Mapping):
            raise ValueError(f"`choices` must be a table of lists. Received: {self.choices!r}")
        choices = {name: _choices(name, values) for name, values in self.choices.items()}
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "regnet", _regnet(self.regnet))
        others = [name for name in ("units", "channels", "widen") if getattr(self, name)]
        if self.regnet and others:
            raise ValueError(
                "`regnet` decides units and channels: give it without "
                + ", ".join(f"`{name}`" for name in others)
            )
        if self.channels and self.widen:
            raise ValueError(
                "`widen` multiplies the net's channels, which `channels` replaces: give one of "
                f"them. Received: widen={self.widen}, channels={self.channels}"
            )
        if not any(getattr(self, each.name) for each in dataclasses.fields(self)):
            names = ", ".join(each.name for each in dataclasses.fields(self))
            raise ValueError(f"A search space must let something vary: {names}. Received: nothing")


def read_space(path: str | Path) -> SearchSpace:
    """Read a search space from a file.

    Args:
        path: A TOML file, whose keys are the arguments of `SearchSpace`. The word "none" stands
            for None.

    Returns:
        The space, checked.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not TOML, or has an unknown key or a value out of its range.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        _check_names(values, [each.name for each in dataclasses.fields(SearchSpace)])
        return SearchSpace(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def label(value: Any) -> str:
    """Return the word that stands for a choice in tables and records."""
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value)


def are_numbers(values: Sequence[Any]) -> bool:
    """Return whether choices are numbers, which have an order, and not names."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _counts(name: str, values: Any) -> Counts:
    values = _sequence(name, values)
    if any(isinstance(each, list | tuple | range) for each in values):
        return tuple(
            _options(f"{name}[{stage}]", stage_values, POSITIVE_INTEGER)
            for stage, stage_values in enumerate(values)
        )
    return _options(name, values, POSITIVE_INTEGER) if values else ()


def _choices(name: str, values: Any) -> tuple[Any, ...]:
    if name in _NOT_CHOICES:
        raise ValueError(f"`choices` must not hold `{name}`: {_NOT_CHOICES[name]}.")
    _check_names([name], [each for each in RULES if each not in _NOT_CHOICES])
    rule = RULES[name]
    values = [of_word(value, rule) for value in _sequence(name, values)]
    kind = float if are_numbers(values) and not all(map(_is_integer, values)) else None
    return _options(f"choices.{name}", values, rule, kind)


def _regnet(values: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(values, Mapping):
        raise ValueError(f"`regnet` must be a table of lists. Received: {values!r}")
    _check_names(values, list(NUMBERS))
    missing = [name for name in ("depth", "slope") if values and name not in values]
    if missing:
        raise ValueError(f"`regnet` needs {' and '.join(map(repr, missing))}. Received: {values!r}")
    kinds = {name: None if rule is POSITIVE_INTEGER else float for name, rule in NUMBERS.items()}
    return {
        name: _options(f"regnet.{name}", options, NUMBERS[name], kinds[name])
        for name, options in values.items()
    }


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _options(name: str, values: Any, rule: Rule, kind: type | None = None) -> tuple[Any, ...]:
    """Check that there are values, and each of them, and convert them to a type if one is given."""
    values = _sequence(name, values)
    if not values:
        raise ValueError(f"`{name}` must have a value. Received: an empty list")
    for value in values:
        if not rule.holds(value):
            raise ValueError(f"Each of `{name}` must be {rule.expected}. Received: {value!r}")
    return _different(name, tuple(value if kind is None else kind(value) for value in values))


def _sequence(name: str, values: Any) -> tuple[Any, ...]:
    values = plain(values)
    if not isinstance(values, list | tuple | range):
        raise ValueError(f"`{name}` must be a list of values. Received: {values!r}")
    return tuple(values)


def _different(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    labels = [label(value) for value in values]
    if len(set(labels)) < len(labels):
        raise ValueError(f"The values of `{name}` must differ. Received: {', '.join(labels)}")
    return values


def _check_names(names: Sequence[str] | Mapping[str, Any], known: list[str]) -> None:
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, quote="'")
            raise ValueError(f"Unknown name {name!r}.{hint} Known: {', '.join(known)}")
