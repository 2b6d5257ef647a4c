import inspect

import numpy as np
import pytest

from keras_preact.tuning import Constraints, SearchSpace, read_space


def test_a_file_gives_the_same_space_as_its_arguments(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(
        "units = [[1, 2], [2, 3]]\nwiden = [0.5, 1, 2]\nweight_decay = [0, 1e-4]\n"
        '[choices]\nattention = ["none", "se"]\nnorm = ["none", "batch"]\ndrop_path = [0, 0.1]\n'
    )
    expected = SearchSpace(
        units=((1, 2), (2, 3)),
        widen=(0.5, 1.0, 2.0),
        weight_decay=(0.0, 1e-4),
        choices={"attention": (None, "se"), "norm": ("none", "batch"), "drop_path": (0.0, 0.1)},
    )
    assert read_space(path) == expected
    assert read_space(path).choices["norm"] == ("none", "batch")
    # KerasTuner wants choices of one type.
    assert [type(each) for each in read_space(path).choices["drop_path"]] == [float, float]


def test_numbers_of_numpy_are_numbers():
    space = SearchSpace(
        units=np.arange(1, 3),
        channels=[[np.int64(8)], range(8, 10)],
        learning_rate=np.array([0.1, 0.2], "float32"),
        choices={"drop_path": np.array([0, 0.5])},
    )
    assert space.units == (1, 2) and space.channels == ((8,), (8, 9))
    assert space.choices["drop_path"] == (0.0, 0.5)
    assert {type(each) for each in (*space.units, *space.channels[0])} == {int}
    assert {type(each) for each in space.learning_rate} == {float}
    limits = Constraints(max_flops=np.int64(9), max_latency=np.float32(0.5), fill=np.bool_(False))
    assert limits == Constraints(max_flops=9, max_latency=0.5, fill=False)
    assert type(limits.max_flops) is int and type(limits.max_latency) is float


def test_the_argument_that_was_meant_is_named():
    with pytest.raises(TypeError, match="SearchSpace.* no argument `chanels`. Did you mean `chann"):
        SearchSpace(chanels=(8,))
    with pytest.raises(TypeError, match="argument `max_parameter`. Did you mean `max_parameters`"):
        Constraints(max_parameter=8)
    assert list(inspect.signature(Constraints).parameters)[0] == "max_parameters"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"units": ((1, 2), (), (1,))}, r"`units\[1\]` must have a value"),
        ({"choices": {"attention": ()}}, "`choices.attention` must have a value"),
        ({"regnet": {"depth": (3,), "slope": (1,), "width": ()}}, "`regnet.width` must have a val"),
        ({"regnet": {"depth": (), "slope": (1,)}}, "`regnet.depth` must have a value"),
        ({"units": (np.float64(1.5),)}, "`units` must be a positive integer. Received: 1.5"),
        ({}, "must let something vary.*Received: nothing"),
        ({"units": (1, 0)}, "`units` must be a positive integer. Received: 0"),
        ({"units": ((1, 2), 3)}, r"`units\[1\]` must be a list of values. Received: 3"),
        ({"channels": (8, 8)}, "`channels` must differ. Received: 8, 8"),
        ({"channels": (8,), "widen": (1,)}, "give one of them"),
        ({"widen": (0,)}, "`widen` must be a number above 0. Received: 0"),
        ({"learning_rate": (0.1, 0)}, "`learning_rate` must be a number above 0. Received: 0"),
        ({"weight_decay": 0.1}, "`weight_decay` must be a list of values. Received: 0.1"),
        ({"choices": {"atention": ("se",)}}, "Unknown name 'atention'. Did you mean 'attention'"),
        ({"choices": {"attention": ("sse",)}}, "`choices.attention` must be None or one of.*'sse'"),
        ({"choices": {"units": (1,)}}, "must not hold `units`: give `units`"),
        ({"choices": {"unit": "basic"}}, "`unit` must be a list of values. Received: 'basic'"),
        ({"choices": ["unit"]}, "`choices` must be a table of lists"),
    ],
)
def test_wrong_values_are_refused_early(values, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(**values)


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("unit = [1]")
    with pytest.raises(ValueError, match="wrong.toml: Unknown name 'unit'. Did you mean 'units'"):
        read_space(path)
