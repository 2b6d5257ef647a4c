"""Random combinations of `Architecture`'s fields: what is valid works, what is not says why.

Fields and values come from the tables, so that a new one takes part by itself.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keras_preact.architecture import RULES, Architecture
from keras_preact.weights import named_weights, set_named_weights
from tests.nets import SMALL, X, net, scores
from tests.numerics import WIDE_NET

# Values of a few layouts, and numbers and names among which the rules choose.
LAYOUTS = {
    "units": ((2, 3), (3, 1), (1, 2)),
    "channels": ((32, 64), (16, 16), (48, 32)),
    "strides": ((1, 2), (2, 1), (2, 2)),
    "dilations": ((1, 2), (2, 2), (2,)),
    "multi_grid": ((1, 2), (2, 1, 2), (1, 1, 1, 1)),
}
PLAIN = (None, True, False, -1, 0, 1, 2, 3, 4, 8, 16, -6.0, 0.0, 1e-3, 0.1, 0.25, 0.5, 0.9, 1.5)
NAMES = ("", "relu", "silu", "gelu", "leaky_relu", "linear", "tanh", "glu", "no_such_name")
# These change neither the result nor the layers' names.
FORMS = ("channels_last", "channels_first")


def _allowed(field: str) -> list:
    """Return values of a field that its rule allows, other than the small net's."""
    rule = RULES[field]
    values = LAYOUTS.get(field) or rule.choices or [*PLAIN, *NAMES]
    return [each for each in values if rule.holds(each) and each != getattr(SMALL, field)]


VALUES = {field: _allowed(field) for field in RULES}


@st.composite
def changes(draw: st.DrawFn, most: int = 2) -> dict:
    """Return values of two fields, or of up to `most`."""
    fields = st.sampled_from(list(RULES))
    chosen = draw(st.lists(fields, min_size=2, max_size=most, unique=True))
    return {field: draw(st.sampled_from(VALUES[field])) for field in chosen}


def _check(changes: dict, data_format: str) -> None:
    try:
        architecture = SMALL.replace(**changes)
    except ValueError as error:
        named = re.findall(r"`(\w+)[`=]", str(error))
        assert named[0] in RULES, error
        assert set(named) & set(changes), f"{error} says nothing of {changes}"
        return
    assert Architecture.from_config(architecture.get_config()) == architecture
    first = data_format == "channels_first"
    x = X.transpose(0, 3, 1, 2) if first else X
    model = net(changes, data_format=data_format, input_shape=x.shape[1:])
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
    loss = model.train_on_batch(x, np.array([1, 2]))
    assert np.isfinite(loss)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "net.keras")
        loaded = keras.saving.load_model(Path(folder) / "net.keras", safe_mode=True)
    expected = scores(model, x)
    np.testing.assert_array_equal(scores(loaded, x), expected)
    try:
        other = net({**changes, "scan_units": architecture.scan_units is not True})
    except ValueError as error:
        assert str(error).startswith("`scan_units`")
        return
    set_named_weights(other, named_weights(model))
    np.testing.assert_allclose(scores(other), expected, atol=WIDE_NET)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        # Two fields are few enough to see which is to blame; shrinking takes minutes.
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@_settings(6)
@given(changes=changes(), data_format=st.sampled_from(FORMS))
def test_pairs_work_or_say_why_not(changes, data_format):
    _check(changes, data_format)


@pytest.mark.slow
@_settings(300)
@given(changes=changes(most=6), data_format=st.sampled_from(FORMS))
def test_more_fields_at_once_work_or_say_why_not(changes, data_format):
    _check(changes, data_format)


@pytest.mark.parametrize("field", RULES)
def test_a_value_that_the_rule_refuses_is_named(field):
    refused = [each for each in (*PLAIN, *NAMES, (), (1, "2"), {}) if not RULES[field].holds(each)]
    assert refused
    for value in refused:
        with pytest.raises(ValueError, match=rf"`{field}` must be .*Received: ") as error:
            SMALL.replace(**{field: value})
        assert repr(value) in str(error.value)


def test_every_field_takes_part():
    assert set(RULES) == set(SMALL.get_config())
    assert all(VALUES.values())
