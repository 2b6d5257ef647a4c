"""Gradients along paths, lesion studies, and gradients over training, on any backend."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from keras_preact.analysis import (
    GradientHistory,
    draw_gradient_history,
    draw_lesion_study,
    draw_path_gradients,
    gradient_flow,
    lesion_study,
    path_gradients,
    scores_without,
    take_apart,
)
from keras_preact.analysis.lesions import _rank_correlation
from tests.analysis.test_gradient_flow import Y, linear_net
from tests.nets import TINY, X, net, scores
from tests.numerics import LAYER, NET, WIDE_NET


@pytest.mark.parametrize(("shortcut", "kept"), [("identity", 1.0), ("scaling", 0.5)])
def test_paths_of_a_linear_net_are_binomial(shortcut, kept):
    # A path through k of the 6 branches multiplies by 0.25**k and by the shortcuts' factor: the
    # shares are those of 6 draws with the branch's part of the sum for a probability.
    model, factor = linear_net(shortcut, 0.25), 0.25
    paths = path_gradients(model, X, Y, loss=lambda y, scores: scores[:, 0], samples=2)
    expected = factor**paths.lengths * kept ** (6 - paths.lengths)
    np.testing.assert_allclose(paths.norms / paths.norms[0], expected / expected[0], rtol=WIDE_NET)
    assert paths.shares.sum() == pytest.approx(1)
    assert paths.effective_depth == pytest.approx(6 * factor / (kept + factor), rel=WIDE_NET)


@pytest.mark.parametrize("changes", [{"order": "original"}, {"scan_units": True}])
def test_paths_have_every_length(changes, tmp_path):
    model = net(changes)
    paths = path_gradients(model, X, Y, samples=2)
    np.testing.assert_array_equal(paths.lengths, np.arange(len(take_apart(model).units) + 1))
    assert (paths.norms > 0).all()
    assert 0 < paths.effective_depth < paths.lengths[-1]
    draw_path_gradients(tmp_path / "paths.svg", {"$a_$b": paths})
    assert "$a_$b: effective depth" in (tmp_path / "paths.svg").read_text()


def test_no_gradient_comes_along_a_branch_that_is_zero():
    model = net({})
    for unit in take_apart(model).units[1:]:
        last = model.get_layer(f"{unit.name}_conv3")
        last.set_weights([0 * each for each in last.get_weights()])
    paths = path_gradients(model, X, Y, samples=4)
    np.testing.assert_array_equal(paths.norms[2:], 0)
    flow = gradient_flow(model, X, Y, training=False)
    assert paths.norms[0] == pytest.approx(flow.shortcuts[0], rel=WIDE_NET)
    with warnings.catch_warnings(action="error"):
        flat = path_gradients(model, X, Y, loss=lambda y, scores: 0 * scores[:, 0], lengths=[0, 1])
    assert not flat.norms.any() and np.isnan(flat.effective_depth)


def test_paths_have_as_many_branches_as_there_are_units():
    with pytest.raises(ValueError, match=r"`lengths` must be from 0 to the \d+ units.*99"):
        path_gradients(net({}), X, Y, lengths=[99])
    with pytest.raises(ValueError, match="`samples` must be 1 or more. Received: 0"):
        path_gradients(net({}), X, Y, samples=0)


def test_lesions_are_those_of_the_scores(tmp_path):
    model = net({"units": (2, 3)}, architecture=TINY)
    labels = scores(model).argmax(axis=-1)
    labels[0] += 1
    seen = []
    study = lesion_study(
        model, X, labels, counts=(1, 2), samples=3, progress=lambda *each: seen.append(each)
    )
    assert study.error == pytest.approx(1 / len(X))
    assert seen[-1][0] == seen[-1][1] == len(seen)
    for name, error in zip(study.units, study.without, strict=True):
        assert error == np.mean(scores_without(model, X, [name]).argmax(axis=-1) != labels)
    assert study.deleted.shape == study.moved.shape == study.correlations.shape == (2, 3)
    # One exchange of the net's movable units, which stand side by side or two apart.
    assert (study.correlations[0] < 1).all()
    draw_lesion_study(tmp_path / "lesions.svg", {"$a_$b": study}, "$A_$B")
    assert "$A_$B" in (tmp_path / "lesions.svg").read_text()
    with pytest.raises(ValueError, match=r"`counts` must be from 1 to .*\(99,\)"):
        lesion_study(model, X, labels, counts=(99,))
    # As `keras.datasets` has them; compared with each image's, they would all be wrong.
    with pytest.raises(ValueError, match=r"`labels` must .* \(\d+,\). Received: \(\d+, 1\)"):
        lesion_study(model, X, labels[:, None], counts=(1,))


def test_orders_are_compared_by_their_pairs():
    assert _rank_correlation([0, 1, 2, 3]) == 1
    assert _rank_correlation([3, 2, 1, 0]) == -1
    assert _rank_correlation([1, 0, 2, 3]) == pytest.approx(1 - 2 / 6)
    assert _rank_correlation([0]) == 1


def test_gradients_over_training(tmp_path):
    model = net({"unit": "basic", "units": (1, 2)})
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    first, trained = model.get_weights(), []
    history = GradientHistory(X, Y, every=2)
    for callbacks in ([], [history]):
        model.set_weights(first)
        x, y = np.repeat(X, 3, axis=0), np.repeat(Y, 3)
        model.fit(x, y, batch_size=1, shuffle=False, verbose=0, callbacks=callbacks)
        trained.append(model.get_weights())
    assert history.steps == [0, 2, 4, 6]
    assert history.inputs.shape == (4, len(take_apart(model).units))
    # Measured on the weights of that step, and without a trace in them.
    np.testing.assert_allclose(history.inputs[-1], gradient_flow(model, X, Y).inputs, rtol=WIDE_NET)
    assert np.abs(history.inputs[1] / history.inputs[0] - 1).max() > 1e-3
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=NET, atol=LAYER)
    draw_gradient_history(tmp_path / "history.svg", {"$a_$b": history}, "$A_$B")
    assert "$a_$b" in (tmp_path / "history.svg").read_text()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs step by step on torch")
def test_several_steps_may_be_one_execution():
    model = net({"unit": "basic", "units": (1, 1)})
    model.compile("sgd", "sparse_categorical_crossentropy", steps_per_execution=4)
    history = GradientHistory(X, Y, every=3)
    # Executions of four steps and of two.
    model.fit(
        np.repeat(X, 3, axis=0), np.repeat(Y, 3), batch_size=1, verbose=0, callbacks=[history]
    )
    assert history.steps == [0, 4, 6]


def test_histories_need_steps(tmp_path):
    with pytest.raises(ValueError, match="`every` must be 1 or more. Received: 0"):
        GradientHistory(X, Y, every=0)
    with pytest.raises(ValueError, match=r"Nothing was measured in \['a net'\]"):
        draw_gradient_history(tmp_path / "none.svg", {"a net": GradientHistory(X, Y, every=1)})
