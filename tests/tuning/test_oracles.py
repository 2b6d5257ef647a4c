"""Oracles, with a search that takes no training: a trial's score is known from its values."""

from __future__ import annotations

import collections
import itertools
import math

import keras_tuner
import numpy as np
import pytest

import keras_preact
from keras_preact.files import read_json, write_json
from keras_preact.tuning import ORACLES, Constraints, PreActHyperModel, SearchSpace, make_oracle
from keras_preact.tuning.rungs import halving_sizes
from tests.tuning.spaces import SHAPE, SPACE

ALL = sorted(ORACLES)
RUNGS = ("bayesian_halving", "halving", "hyperband")
# A Bayesian proposal takes a second.
TRIALS = {"random": 20, "bayesian": 7, "hyperband": 20, "halving": 20, "bayesian_halving": 20}


def made(name, hypermodel, folder, project="search", **options):
    options = {"max_trials": TRIALS[name], "max_epochs": 9, **options}
    return placed(make_oracle(name, hypermodel, **options), folder, project)


def placed(oracle, folder, project="search"):
    oracle._set_project_dir(str(folder), project)
    oracle.verbose = 0
    return oracle


def score(values):
    """Accuracy that grows with depth and epochs, differently for every candidate."""
    channels = values["channels_stage2"] + 2 * values["channels_stage3"]
    units = values["units_stage2"] + 3 * values["units_stage3"]
    rest = (values["attention"] == "se") + values["drop_path"] + values["learning_rate"] / 7
    return units / 20 + channels / 1000 + rest / 100 + values.get("tuner/epochs", 0) / 50


def end(oracle, trial, status="COMPLETED"):
    if status == "COMPLETED":
        # As if the best fit the training images worst.
        accuracy = score(trial.hyperparameters.values)
        oracle.update_trial(trial.trial_id, {"val_accuracy": accuracy, "loss": accuracy})
    trial.status = status
    oracle.end_trial(trial)


def search(oracle, fails=lambda trial: False):
    """Run all trials, and return them."""
    while True:
        trial = oracle.create_trial("worker")
        if trial.status == "STOPPED":
            return list(oracle.trials.values())
        assert trial.status == "RUNNING"
        end(oracle, trial, "FAILED" if fails(trial) else "COMPLETED")


def chosen(trial):
    """Return a candidate's values without the rung that its trial belongs to."""
    values = trial.hyperparameters.values
    return tuple(sorted(item for item in values.items() if not item[0].startswith("tuner/")))


def rungs(trials):
    """Return trials by bracket and rung."""
    found = collections.defaultdict(list)
    for trial in trials:
        values = trial.hyperparameters.values
        found[values["tuner/bracket"], values["tuner/round"]].append(trial)
    return found


@pytest.mark.parametrize("name", ALL)
def test_every_proposal_is_new_and_within_the_limits(name, architecture, hypermodel, tmp_path):
    values = {**hypermodel.hyperparameters().values, "units_stage3": 2}
    limit = hypermodel.candidates.cost(values)
    constraints = Constraints(max_flops=limit.flops, max_parameters=limit.parameters, fill=False)
    limited = PreActHyperModel(
        architecture, SPACE, input_shape=SHAPE, classes=10, constraints=constraints
    )
    trials = search(made(name, limited, tmp_path))
    assert len(trials) >= TRIALS[name] - 1
    for trial in trials:
        cost = hypermodel.candidates.cost(trial.hyperparameters.values)
        assert cost.flops <= limit.flops and cost.parameters <= limit.parameters
    begun = [each for each in trials if not each.hyperparameters.values.get("tuner/round")]
    assert len({chosen(trial) for trial in begun}) == len(begun)


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides_what_is_proposed(name, hypermodel, tmp_path):
    first, again, other = (
        search(made(name, hypermodel, tmp_path, project=f"{number}", max_trials=5, seed=seed))
        for number, seed in enumerate((0, 0, 1))
    )
    assert list(map(chosen, first)) == list(map(chosen, again))
    assert list(map(chosen, first)) != list(map(chosen, other))


@pytest.mark.parametrize("name", ALL)
def test_a_killed_search_goes_on(name, hypermodel, tmp_path):
    oracle = made(name, hypermodel, tmp_path)
    for _ in range(TRIALS[name] - 2):
        end(oracle, oracle.create_trial("worker"))
    interrupted = oracle.create_trial("worker")
    finished = {each.trial_id: each.score for each in oracle.trials.values() if each.score}
    assert len(finished) == TRIALS[name] - 2

    resumed = made(name, hypermodel, tmp_path)
    resumed.reload()
    trial = resumed.create_trial("another")
    assert trial.trial_id == interrupted.trial_id
    assert trial.hyperparameters.values == interrupted.hyperparameters.values
    end(resumed, trial)
    trials = search(resumed)
    assert {each.trial_id: each.score for each in trials if each.trial_id in finished} == finished
    undisturbed = search(made(name, hypermodel, tmp_path, project="undisturbed"))
    assert len(trials) == len(undisturbed)
    assert list(map(chosen, trials)) == list(map(chosen, undisturbed))


@pytest.mark.parametrize("name", ALL)
def test_a_search_killed_between_two_files_goes_on(name, hypermodel, tmp_path):
    oracle = made(name, hypermodel, tmp_path)
    end(oracle, oracle.create_trial("worker"))
    trial = oracle.create_trial("worker")
    state = tmp_path / "search" / "oracle.json"
    running = state.read_text()
    end(oracle, trial)
    proposed = oracle.create_trial("worker")
    # The trial's file says that it has ended, and another's is there; the oracle's is older.
    state.write_text(running)
    resumed = made(name, hypermodel, tmp_path)
    resumed.reload()
    assert sorted(resumed.trials) == resumed.end_order
    assert resumed.trials[trial.trial_id].status == "COMPLETED"
    again = resumed.create_trial("worker")
    assert again.trial_id == proposed.trial_id
    assert chosen(again) == chosen(proposed)


@pytest.mark.parametrize("earlier", [False, True], ids=["", "earlier version"])
def test_a_search_of_other_values_is_not_continued(earlier, architecture, tmp_path):
    def search_of(values):
        space = SearchSpace(units=(1, 2), choices={"attention": values})
        return made("random", PreActHyperModel(architecture, space, classes=10), tmp_path)

    search_of((None, "se")).create_trial("worker")
    path = tmp_path / "search" / "oracle.json"
    if earlier:
        state = read_json(path)
        del state["about"]
        write_json(path, state)
    search_of((None, "se")).reload()
    message = (
        r"search holds another search, with attention=\['none', 'se'\]. "
        r"Received: attention=\['none', 'eca'\].*`overwrite=True`"
    )
    with pytest.raises(ValueError, match=message):
        search_of((None, "eca")).reload()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("random", {"constraints": Constraints(max_flops=10**9)}, "max_flops=None, fill=None"),
        ("random", {"classes": 9}, "classes=10. Received: classes=9"),
        ("random", {"net": keras_preact.PreActResNet20}, r"units=\[1, 1\].*=\[3, 3, 3\]"),
        ("halving", {}, "oracle=Random. Received: oracle=SuccessiveHalving"),
    ],
)
def test_a_search_of_other_nets_is_not_continued(name, changes, message, architecture, tmp_path):
    arguments = {"net": architecture, "space": SearchSpace(learning_rate=(0.1,)), "classes": 10}
    made("random", PreActHyperModel(**arguments), tmp_path).create_trial("worker")
    other = PreActHyperModel(**{**arguments, **changes})
    with pytest.raises(ValueError, match=f"holds another search, with .*{message}"):
        made(name, other, tmp_path).reload()


@pytest.mark.parametrize("name", RUNGS)
def test_the_best_of_a_rung_are_continued(name, hypermodel, tmp_path):
    oracle = made(name, hypermodel, tmp_path)
    found = rungs(search(oracle))
    assert {rung for _, rung in found} == {0, 1, 2}
    for (bracket, rung), trials in found.items():
        if rung == 0:
            continue
        below = found[bracket, rung - 1]
        best = sorted(below, key=lambda each: each.score, reverse=True)[: len(trials)]
        assert sorted(map(chosen, trials)) == sorted(map(chosen, best))
        for trial in trials:
            values = trial.hyperparameters.values
            parent = oracle.trials[values["tuner/trial_id"]]
            assert parent in below and chosen(parent) == chosen(trial)
            assert values["tuner/initial_epoch"] == parent.hyperparameters.values["tuner/epochs"]
            assert values["tuner/epochs"] > values["tuner/initial_epoch"]


@pytest.mark.parametrize("name", RUNGS)
def test_trials_may_be_continued_by_another_metric(name, hypermodel, tmp_path):
    found = rungs(search(made(name, hypermodel, tmp_path, promote_by="loss")))
    for (bracket, rung), trials in found.items():
        if rung:
            lowest = sorted(found[bracket, rung - 1], key=lambda each: each.score)[: len(trials)]
            assert sorted(map(chosen, trials)) == sorted(map(chosen, lowest))


def test_a_metric_that_no_trial_reports_ends_the_search_at_once(hypermodel, tmp_path):
    promote_by = keras_tuner.Objective("top1", "max")
    oracle = made("halving", hypermodel, tmp_path, promote_by=promote_by)
    message = "`promote_by` must be a .* report: val_accuracy, loss. Received: 'top1'"
    with pytest.raises(keras_tuner.errors.FatalValueError, match=message):
        end(oracle, oracle.create_trial("worker"))


# A Gaussian process has no say in what is continued, and takes a while.
@pytest.mark.parametrize("name", ["halving", "hyperband"])
def test_what_is_continued_could_be_continued_all_along(name, hypermodel, tmp_path):
    oracle = made(name, hypermodel, tmp_path, promote_by="loss")
    before, continued = set(), 0
    while (trial := oracle.create_trial("worker")).status == "RUNNING":
        parent = trial.hyperparameters.values.get("tuner/trial_id")
        assert parent is None or parent in before
        continued += parent is not None
        end(oracle, trial, "FAILED" if int(trial.trial_id) % 5 == 2 else "COMPLETED")
        # Without weights, nothing becomes worth continuing again.
        now = oracle.continuable()
        assert now <= before | {trial.trial_id}
        before = now
    assert continued
    assert name == "hyperband" or not before


def test_a_loss_that_is_not_a_number_is_the_worst(hypermodel, tmp_path):
    oracle = made("halving", hypermodel, tmp_path, max_trials=4, factor=3, promote_by="loss")
    begun = [oracle.create_trial(f"worker{number}") for number in range(3)]
    for trial, loss in zip(begun, (float("nan"), 2.0, 1.0), strict=True):
        oracle.update_trial(trial.trial_id, {"val_accuracy": 0.1, "loss": loss})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    continued = oracle.create_trial("worker").hyperparameters.values
    assert continued["tuner/trial_id"] == begun[2].trial_id


@pytest.mark.parametrize("factor", [2, 3])
def test_hyperband_has_the_rungs_of_kerastuners(factor, hypermodel, tmp_path):
    theirs = placed(
        keras_tuner.oracles.HyperbandOracle(
            objective=keras_tuner.Objective("val_accuracy", "max"),
            max_epochs=9,
            factor=factor,
            seed=1,
            hyperparameters=hypermodel.hyperparameters(),
        ),
        tmp_path,
        "theirs",
    )
    expected = search(theirs)
    trials = search(
        made("hyperband", hypermodel, tmp_path, factor=factor, max_trials=len(expected))
    )

    def epochs(trials):
        return {
            place: [each.hyperparameters.values["tuner/epochs"] for each in members]
            for place, members in rungs(trials).items()
        }

    assert epochs(trials) == epochs(expected)


def test_hyperband_runs_until_there_are_as_many_trials_as_asked_for(hypermodel, tmp_path):
    trials = search(made("hyperband", hypermodel, tmp_path, max_trials=50))
    assert len(trials) == 50
    # 9, 3, 1; 5, 2; 3 of the first time, and of the second, and the rest of the third.
    assert [len(each) for each in rungs(trials).values()] == [9 + 9 + 4, 3 + 3, 1 + 1, 10, 4, 6]


def test_more_trials_may_be_asked_for_later(hypermodel, tmp_path):
    assert len(search(made("hyperband", hypermodel, tmp_path, max_trials=20))) == 20
    resumed = made("hyperband", hypermodel, tmp_path, max_trials=30)
    resumed.reload()
    assert len(search(resumed)) == 30


@pytest.mark.parametrize(
    ("max_trials", "max_epochs", "factor", "expected"),
    [
        (13, 9, 3, [9, 3, 1]),
        (20, 9, 3, [14, 4, 1]),
        (20, 8, 3, [15, 5]),
        (20, 1, 3, [20]),
        (3, 27, 3, [2]),
        (1, 27, 3, [1]),
        (15, 1000, 2, [8, 4, 2, 1]),
    ],
)
def test_halving_begins_with_as_many_candidates_as_it_can(max_trials, max_epochs, factor, expected):
    assert halving_sizes(max_trials, max_epochs, factor) == expected


def test_halving_is_one_bracket(hypermodel, tmp_path):
    trials = search(made("halving", hypermodel, tmp_path))
    assert [len(members) for members in rungs(trials).values()] == [14, 4, 1]
    last = trials[-1].hyperparameters.values
    assert (last["tuner/initial_epoch"], last["tuner/epochs"]) == (3, 9)


@pytest.mark.parametrize("name", RUNGS)
def test_a_failed_trial_counts_as_the_worst(name, hypermodel, tmp_path):
    oracle = made(name, hypermodel, tmp_path, max_trials=19, max_consecutive_failed_trials=99)
    trials = search(oracle, fails=lambda trial: int(trial.trial_id) in (0, 1, 2, 3, 4))
    found = rungs(trials)
    bracket = max(bracket for bracket, _ in found)
    sizes = [len(found[bracket, rung]) for rung in range(3)]
    assert sizes == ([9, 3, 1] if name == "hyperband" else [14, 4, 1])
    failed = {trial.trial_id for trial in trials if trial.status == "FAILED"}
    parents = {trial.hyperparameters.values.get("tuner/trial_id") for trial in trials}
    assert len(failed) == 5 and not failed & parents


@pytest.mark.parametrize("name", RUNGS)
def test_rungs_shrink_where_too_few_are_left(name, hypermodel, tmp_path):
    oracle = made(name, hypermodel, tmp_path, max_trials=13, max_consecutive_failed_trials=99)
    found = rungs(search(oracle, fails=lambda trial: int(trial.trial_id) < 8))
    bracket = max(bracket for bracket, _ in found)
    assert [len(found[bracket, rung]) for rung in range(3)] == [9, 1, 1]


def test_a_rung_waits_for_trials_that_may_yet_be_better(hypermodel, tmp_path):
    oracle = made("halving", hypermodel, tmp_path)
    slow = oracle.create_trial("slow")
    trials = []
    while (trial := oracle.create_trial("quick")).status == "RUNNING":
        end(oracle, trial)
        trials.append(trial)
    # Of 14, 4 go on: 3 for sure, whatever becomes of the slow one.
    assert trial.status == "IDLE"
    assert [len(members) for members in rungs(trials).values()] == [13, 3]
    end(oracle, slow)
    assert [len(members) for members in rungs(search(oracle)).values()] == [14, 4, 1]


@pytest.mark.parametrize("name", ALL)
def test_hyperparameters_may_be_fixed_or_depend_on_others(name, architecture, tmp_path):
    """Those that `compile` adds, as KerasTuner allows."""
    space = SearchSpace(units=((1, 2), (1, 2)))
    hypermodel = PreActHyperModel(architecture, space, input_shape=SHAPE, classes=10)
    oracle = made(name, hypermodel, tmp_path, max_trials=12 if name == "random" else 7)
    hp = oracle.get_space()
    hp.Fixed("clipnorm", 1.0)
    hp.Choice("optimizer", ["sgd", "adam"])
    with hp.conditional_scope("optimizer", ["sgd"]):
        hp.Choice("momentum", [0.5, 0.9])
    oracle.update_space(hp)
    begun = []
    while (trial := oracle.create_trial("worker")).status == "RUNNING":
        values = trial.hyperparameters.values
        assert ("momentum" in values) == (values["optimizer"] == "sgd")
        if not values.get("tuner/round"):
            begun.append(chosen(trial))
        oracle.update_trial(trial.trial_id, {"val_accuracy": values["units_stage2"] / 2})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    # Four nets, trained in three ways.
    assert len(begun) == len(set(begun)) >= (12 if name == "random" else 5)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("random", [4]),
        ("bayesian", [4]),
        ("hyperband", [4, 3, 1]),
        ("halving", [4, 4, 3]),
        ("bayesian_halving", [4, 4, 3]),
    ],
)
def test_a_small_space_is_tried_to_its_end(name, sizes, architecture, tmp_path):
    """KerasTuner's rungs would stop after the first."""
    space = SearchSpace(units=((1, 2), (1, 2)))
    hypermodel = PreActHyperModel(architecture, space, input_shape=SHAPE, classes=10)
    oracle = made(name, hypermodel, tmp_path, max_trials=40)
    candidates = collections.Counter()
    epochs = collections.Counter()
    while (trial := oracle.create_trial("worker")).status == "RUNNING":
        values = trial.hyperparameters.values
        units = values["units_stage2"], values["units_stage3"]
        candidates[units] += 1
        epochs[values.get("tuner/epochs")] += 1
        oracle.update_trial(trial.trial_id, {"val_accuracy": units[0] + units[1] / 10})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    assert trial.status == "STOPPED"
    assert set(candidates) == set(itertools.product((1, 2), (1, 2)))
    assert list(epochs.values()) == sizes
    assert candidates[2, 2] == len(sizes)


def test_a_bayesian_search_learns_from_its_trials(hypermodel, tmp_path):
    """After its random beginning it proposes better candidates than draws are."""
    drawn = search(made("random", hypermodel, tmp_path, project="random"))
    trials = search(made("bayesian", hypermodel, tmp_path, max_trials=12))
    fifth_best = sorted(each.score for each in drawn)[-5]
    assert min(each.score for each in trials[-3:]) > fifth_best


def test_a_retried_trial_gets_its_new_result(hypermodel, tmp_path):
    oracle = made("random", hypermodel, tmp_path, max_retries_per_trial=1)
    trial = oracle.create_trial("worker")
    oracle.update_trial(trial.trial_id, {"val_accuracy": float("nan")})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)
    again = oracle.create_trial("worker")
    assert again.trial_id == trial.trial_id
    end(oracle, again)
    assert again.status == "COMPLETED" and again.score == score(again.hyperparameters.values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "grid"}, "`name` must be one of random, .*Received: 'grid'"),
        ({"max_trials": 0}, "`max_trials` must be a whole number of at least 1. Received: 0"),
        ({"max_epochs": 1.5}, "`max_epochs` must be a whole number of at least 1. Received: 1.5"),
        ({"factor": 1}, "`factor` must be a whole number of at least 2. Received: 1"),
        ({"max_trials": True}, "`max_trials` must be a whole number of at least 1. Received: True"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0. Received: -1"),
        ({"max_retries_per_trial": -1}, "`max_retries_per_trial` must be a whole number of at"),
        (
            {"name": "halving", "promote_by": "val_top1"},
            "`promote_by` must be one of val_accuracy.*, loss, or a.*Received: 'val_top1'",
        ),
        (
            {"promote_by": "loss"},
            "`promote_by` is for hyperband, halving, .*'random'",
        ),
        (
            {"objective": "top1"},
            "`objective` must be one of val_accuracy.*Received: 'top1'",
        ),
        (
            {"objective": ["val_accuracy", "val_loss"]},
            r"`objective` must be one of val_accuracy.*Received: \['val_accuracy', 'val_loss'\]",
        ),
    ],
)
def test_wrong_arguments_are_refused(changes, message, hypermodel):
    arguments = {"name": "random", "max_trials": 9, "max_epochs": 9, **changes}
    with pytest.raises(ValueError, match=message):
        make_oracle(hypermodel=hypermodel, **arguments)


def test_numbers_of_numpy_are_taken(hypermodel, tmp_path):
    numbers = {"max_trials": 4, "max_epochs": 9, "factor": 2, "seed": 3}
    first, again = (
        made("halving", hypermodel, tmp_path, f"{place}", **each)
        for place, each in enumerate((numbers, {name: np.int64(numbers[name]) for name in numbers}))
    )
    assert list(map(chosen, search(first))) == list(map(chosen, search(again)))
    # Its state is written as JSON.
    again.reload()


def test_widths_that_differ_by_their_proportions_only_are_one_candidate(tmp_path):
    hypermodel = PreActHyperModel(
        keras_preact.PreActResNet20,
        SearchSpace(channels=(8, 16)),
        input_shape=SHAPE,
        classes=4,
        constraints=Constraints(max_flops=500_000),
    )
    oracle = made("random", hypermodel, tmp_path)
    while (trial := oracle.create_trial("worker")).status == "RUNNING":
        oracle.update_trial(trial.trial_id, {"val_accuracy": 0.5})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    proposed = [each.hyperparameters.values for each in oracle.trials.values()]
    nets = {str(hypermodel.candidates.fields(values)) for values in proposed}
    # 8:8:8, for one, is 16:16:16.
    assert len(proposed) == len(nets) < 2**3


def test_a_model_leaves_out_results_that_are_no_numbers(hypermodel, tmp_path):
    oracle = made("bayesian_halving", hypermodel, tmp_path, max_trials=13, promote_by="loss")
    for loss in (float("nan"), 3.0, 1.0, 2.0, 4.0):
        trial = oracle.create_trial("worker")
        oracle.update_trial(trial.trial_id, {"val_accuracy": 0.1, "loss": loss})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    assert oracle.create_trial("worker").status == "RUNNING"


@pytest.mark.parametrize("name", ["bayesian", "bayesian_halving"])
def test_a_model_learns_from_an_infinite_result_as_from_a_failed_trial(name, hypermodel, tmp_path):
    proposed = set()
    for place, first in enumerate((None, math.inf, -math.inf)):
        oracle = made(name, hypermodel, tmp_path, f"{place}", max_trials=13, objective="loss")
        for loss in (first, 3.0, 1.0, 2.0):
            trial = oracle.create_trial("worker")
            if loss is not None:
                oracle.update_trial(trial.trial_id, {"loss": loss})
            trial.status = "FAILED" if loss is None else "COMPLETED"
            oracle.end_trial(trial)
        proposed.add(chosen(oracle.create_trial("worker")))
    assert len(proposed) == 1


def test_a_model_of_the_first_rung_proposes_better_candidates(hypermodel, tmp_path):
    options = {"max_trials": 39, "max_epochs": 9}
    first = {}
    for name in ("halving", "bayesian_halving"):
        trials = search(made(name, hypermodel, tmp_path, project=name, **options))
        (bracket,) = {bracket for bracket, _ in rungs(trials)}
        first[name] = [each.score for each in rungs(trials)[bracket, 0]]
        assert len(first[name]) == 27
    # A third is drawn at random, by the same seed.
    assert first["halving"][:9] == first["bayesian_halving"][:9]
    assert sorted(first["bayesian_halving"])[-9] > sorted(first["halving"])[-3]
