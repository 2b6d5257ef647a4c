"""The cost of nets that are not built, against that of the nets."""

from __future__ import annotations

import itertools

import keras
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import keras_preact
from keras_preact.analysis import CostTable, LatencyTable, architecture_cost, model_cost
from keras_preact.analysis.costs import tables
from keras_preact.architecture import Architecture
from tests.nets import SMALL
from tests.property.test_combinations import changes

SHAPE = (20, 12, 3)
# Small nets whose stages are of every length, and widen, narrow or stay; some fit group norms of 8.
UNITS = st.integers(1, 3)
CHANNELS = st.sampled_from((8, 16, 24, 32, 40, 64))


@st.composite
def families(draw: st.DrawFn) -> tuple[Architecture, Architecture] | None:
    """Draw a random net, and one of other units and channels; None where there is no such net."""
    fields = draw(changes(most=6))
    stages = draw(st.integers(1, 3))

    def layout() -> dict:
        return {
            "units": draw(st.tuples(*[UNITS] * stages)),
            "channels": draw(st.tuples(*[CHANNELS] * stages)),
        }

    strides = draw(st.tuples(*[st.integers(1, 3)] * stages))
    try:
        net = SMALL.replace(**{**fields, **layout(), "strides": strides})
        return net, net.replace(**layout())
    except ValueError:
        return None


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def _check(nets: tuple[Architecture, Architecture]) -> None:
    net, other = nets
    model = keras_preact.PreActResNet(net, input_shape=SHAPE, classes=7)
    expected = model_cost(model).total
    table = CostTable(other, SHAPE, 7)
    # Filled by another net first, so that some parts are counted and others looked up.
    table.cost(other.units, other.channels)
    for _ in range(2):
        assert table.cost(net.units, net.channels) == expected


@_settings(12)
@given(nets=families().filter(bool))
def test_random_nets_cost_what_they_cost_when_built(nets):
    _check(nets)


@pytest.mark.slow
@_settings(200)
@given(nets=families().filter(bool))
def test_200_random_nets_cost_what_they_cost_when_built(nets):
    _check(nets)


@pytest.mark.parametrize(
    "name",
    [
        "PreActResNet20",
        "PreActMobileNetV2",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "PreActResNet50",
                "PreActResNet164",
                "WideResNet28_10",
                "PyramidNet110_a84",
                "DenseNetBC100_12",
                "PreActRes2Net50_26w_4s",
                "PreActBoTNet50",
                "NFPreActResNet50",
                "PreActViTHybrid_R26_S32",
            )
        ),
    ],
)
def test_published_nets_cost_what_they_cost_when_built(name):
    builder = keras_preact.BUILDERS[name]
    expected = model_cost(builder(weights=None, classes=1000)).total
    assert architecture_cost(builder.architecture) == expected


def test_channels_first_cost_the_same():
    expected = architecture_cost(SMALL, (20, 12, 3))
    keras.config.set_image_data_format("channels_first")
    try:
        assert architecture_cost(SMALL, (3, 20, 12)) == expected
    finally:
        keras.config.set_image_data_format("channels_last")


def test_known_nets_are_looked_up(monkeypatch):
    built = []

    def count(part: keras.Model):
        built.append(part)
        return model_cost(part)

    monkeypatch.setattr(tables, "model_cost", count)
    table = CostTable(SMALL, SHAPE)
    nets = list(itertools.product(itertools.product((1, 2, 3), repeat=2), [(32, 64), (64, 64)]))
    costs = [table.cost(units, channels) for units, channels in nets]
    # The stem; a first and another unit of 32 and of 64 channels in the first stage; first units
    # from either and one more in the second; the head.
    assert len(built) == 1 + 4 + 3 + 1
    built.clear()
    monkeypatch.setattr(Architecture, "replace", None)
    assert [table.cost(list(units), list(channels)) for units, channels in nets] == costs
    assert not built


def test_latency_adds_up_over_parts_that_are_timed_once(monkeypatch):
    table = LatencyTable(SMALL, SHAPE, 7, batch_size=2, repeats=3)
    two, three = (table.seconds((1, units), (32, 64)) for units in (2, 3))
    assert 0 < two <= three
    monkeypatch.setattr(keras.Model, "predict_on_batch", None)
    # Another unit of the last stage is one more of the same part.
    assert table.seconds((1, 4), (32, 64)) - three == pytest.approx(three - two)
    with pytest.raises(TypeError):
        table.seconds((1, 1), (32, 48))
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer. Received: 0"):
        LatencyTable(SMALL, batch_size=0)


def test_what_is_no_net_of_the_family_is_refused():
    table = CostTable(SMALL.replace(norm="group"), SHAPE)
    assert table.cost((1, 1), (32, 64)).parameters
    for _ in range(2):
        with pytest.raises(ValueError, match="`norm_groups` must be a divisor"):
            table.cost((1, 1), (32, 36))
    with pytest.raises(ValueError, match="`units` must"):
        table.cost((1, 0), (32, 64))
    for units, channels in [((1,), (32,)), ((1, 1), (32,)), ((1, 1, 1), (32, 64, 64))]:
        with pytest.raises(ValueError, match="must have one value for each stage"):
            table.cost(units, channels)
    with pytest.raises(ValueError, match="`input_shape` must be known in height and width"):
        CostTable(SMALL, (None, None, 3))
