"""A misspelt argument of a builder is answered with the argument that was meant."""

from __future__ import annotations

import re

import pytest

import keras_preact


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("weight", "weights"),
        ("num_classes", "classes"),
        ("class", "classes"),
        ("poolin", "pooling"),
        ("input_shap", "input_shape"),
        ("norm_layer", "norm"),
        ("drop_path_rate", "drop_path"),
        ("stem_chanels", "stem_channels"),
    ],
)
def test_the_answer_names_the_argument_that_was_meant(given, meant):
    with pytest.raises(ValueError) as error:
        keras_preact.PreActResNet50(**{given: None})
    assert str(error.value).startswith(
        f"`PreActResNet50()` has no argument `{given}`. Did you mean `{meant}`? "
    )


def test_the_answer_lists_the_parameters_and_says_where_the_fields_are():
    with pytest.raises(ValueError) as error:
        keras_preact.PreActResNet50(xyz=0.9)
    message = str(error.value)
    assert "Did you mean" not in message
    assert re.search(r"\['include_top', 'weights', .*'data_format', 'dtype'\]", message)
    assert message.endswith("see `help(keras_preact.Architecture)`.")
