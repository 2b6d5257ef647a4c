"""The hypermodel with KerasTuner's own tuners."""

import keras
import keras_tuner
import numpy as np
import pytest

import keras_preact
from keras_preact.analysis import LatencyTable, architecture_cost, model_cost
from keras_preact.tuning import Constraints, PreActHyperModel, SearchSpace
from tests.tuning.spaces import SHAPE


def images(count=64):
    generator = np.random.default_rng(0)
    return generator.random((count, *SHAPE), "float32"), np.arange(count) % 10


def test_a_tuner_of_kerastuner_searches_within_the_budget(architecture, tmp_path):
    hypermodel = PreActHyperModel(
        architecture,
        SearchSpace(units=(1, 2), widen=(0.5, 1), learning_rate=(0.01,)),
        input_shape=SHAPE,
        classes=10,
        constraints=Constraints(max_flops=400_000),
    )
    tuner = keras_tuner.Hyperband(
        hypermodel, objective="val_accuracy", max_epochs=2, directory=tmp_path, seed=1
    )
    x, y = images()
    tuner.search(x, y, batch_size=32, validation_data=(x, y), verbose=0)
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    best = tuner.get_best_hyperparameters()[0]
    model = tuner.get_best_models()[0]
    cost = model_cost(model).total
    assert 380_000 <= cost.flops <= 400_000
    assert hypermodel.candidates.cost(best.values) == cost
    assert model.optimizer.momentum == 0.9 and model.optimizer.nesterov


@pytest.mark.parametrize(
    ("dtype", "scales"), [("mixed_float16", True), ("mixed_bfloat16", False), (None, False)]
)
def test_the_loss_is_scaled_where_the_nets_compute_in_float16(dtype, scales, architecture):
    hypermodel = PreActHyperModel(
        architecture, SearchSpace(units=(1, 2)), input_shape=SHAPE, classes=10, dtype=dtype
    )
    model = hypermodel.build(hypermodel.hyperparameters())
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == scales
    assert optimizer.built
    sgd = optimizer.inner_optimizer if scales else optimizer
    assert sgd.momentum == 0.9
    decayed = {each.path for each in keras_preact.decayed_variables(model)}
    for variable in model.trainable_variables:
        assert sgd._use_weight_decay(variable) == (variable.path in decayed)


def built_only(tuner):
    """Return a tuner of KerasTuner's that builds its trials and trains none."""

    class BuiltOnly(tuner):
        def run_trial(self, trial, *args, **kwargs):
            self.hypermodel.build(trial.hyperparameters)
            return {"val_accuracy": sum(trial.hyperparameters.values.values())}

    return BuiltOnly


@pytest.mark.parametrize("tuner", [keras_tuner.RandomSearch, keras_tuner.GridSearch])
def test_widths_follow_from_the_other_values(tuner, architecture, tmp_path):
    hypermodel = PreActHyperModel(
        architecture,
        SearchSpace(units=(3, 1)),
        input_shape=SHAPE,
        classes=10,
        constraints=Constraints(max_flops=400_000),
    )
    search = {"max_trials": 9, "seed": 1, "directory": tmp_path, "objective": "val_accuracy"}
    found = built_only(tuner)(hypermodel, **search)
    found.search(verbose=0)
    trials = [each.hyperparameters.values for each in found.oracle.trials.values()]
    # Each once, which KerasTuner tells by the values.
    assert sorted(map(tuple, map(dict.values, trials))) == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert all(0.95 <= hypermodel.candidates.share(values) <= 1 for values in trials)
    resumed = built_only(tuner)(hypermodel, **search)
    best = resumed.get_best_hyperparameters()[0]
    assert best.values == {"units_stage2": 3, "units_stage3": 3}
    best.values["units_stage2"] = 1
    cost = model_cost(hypermodel.build(best)).total
    assert cost == hypermodel.candidates.cost({"units_stage2": 1, "units_stage3": 3})
    assert 380_000 <= cost.flops <= 400_000


def test_a_choice_may_be_overridden_by_another_value_of_its_field(architecture):
    """KerasTuner's way: `hyperparameters` of a tuner that know the name already."""
    space = SearchSpace(units=(1, 2), choices={"attention": (None, "se"), "unit": ("basic",)})
    hypermodel = PreActHyperModel(architecture, space, input_shape=SHAPE, classes=10)
    hp = keras_tuner.HyperParameters()
    hp.Fixed("attention", "eca")
    model = hypermodel.build(hp)
    assert hypermodel.candidates.architecture(hp.values).attention == "eca"
    assert model_cost(model).total == hypermodel.candidates.cost(hp.values)
    for name, word in (("attention", "ecca"), ("unit", "basi")):
        hp.values = {**hypermodel.hyperparameters().values, name: word}
        with pytest.raises(keras_tuner.errors.FailedTrialError, match=f"`{name}` must be .*{word}"):
            hypermodel.build(hp)


@pytest.mark.parametrize("fill", [True, False])
def test_a_recorded_latency_is_not_measured_again(fill, architecture, monkeypatch):
    slowness = 1.0

    def seconds(table, units, channels):
        return slowness * sum(map(int.__mul__, units, channels))

    monkeypatch.setattr(LatencyTable, "seconds", seconds)

    def made():
        """Make what another process would."""
        return PreActHyperModel(
            architecture,
            SearchSpace(units=(1, 2)),
            input_shape=SHAPE,
            classes=10,
            constraints=Constraints(max_latency=50 if fill else 24, fill=fill),
        )

    hypermodel = made()
    hp = hypermodel.hyperparameters()
    hp.values = hypermodel.candidates.completed(hp.values)
    widths = [hypermodel.candidates.architecture(hp.values).channels]
    slowness = 1.2
    later = made() if fill else hypermodel
    widths.append(later.candidates.architecture(hp.values).channels)
    assert widths[0] == widths[1]
    assert model_cost(later.build(hp)).total == hypermodel.candidates.cost(hp.values)
    # They are not those of other values.
    hp.values["units_stage2"] = 2
    assert later.candidates.holds(hp.values) == fill
    if fill:
        assert later.candidates.architecture(hp.values).channels != widths[0]


@pytest.mark.parametrize(
    ("net", "space", "limits"),
    [
        # The first of these gives three stages.
        (
            keras_preact.PreActResNet18,
            SearchSpace(regnet={"depth": (3, 4), "slope": (0.1, 1)}),
            {"max_flops": 400_000},
        ),
        (
            keras_preact.PreActResNet20,
            SearchSpace(units=(1, 3), learning_rate=(0.1, 0.2)),
            {"max_parameters": 150_000, "fill": False},
        ),
    ],
)
def test_the_default_candidate_holds(net, space, limits, tmp_path):
    hypermodel = PreActHyperModel(
        net, space, input_shape=SHAPE, classes=10, constraints=Constraints(**limits)
    )
    # KerasTuner builds it.
    tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", directory=tmp_path)
    default = tuner.oracle.get_space().values
    assert hypermodel.candidates.holds(default)
    assert default == hypermodel.hyperparameters().values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": "PreActResNet2"}, "`net` must be a builder, .* Did you mean `PreActResNet20`"),
        ({"net": keras.Sequential()}, "`net` must be a builder.*type Sequential"),
        ({"space": {"units": (1, 2)}}, r"must be a `SearchSpace`. Give `SearchSpace\(\*\*space"),
        ({"space": "space.toml"}, r"must be a `SearchSpace`. Give `read_space\(path"),
        ({"constraints": {"max_flops": 9}}, r"`constraints` must be .*Give `Constraints\(\*\*"),
        ({"compile": "adam"}, "`compile` must be a function .*Received: 'adam'"),
        ({"classes": 0}, "`classes` must be a positive integer. Received: 0"),
        ({"input_shape": 8}, "`input_shape` must have three dimensions"),
        ({"dtyp": "float32"}, "no argument `dtyp`. Did you mean `dtype`"),
        ({"constraint": None}, "no argument `constraint`. Did you mean `constraints`"),
        ({"attention": "se"}, "`attention` is no option of a search: it belongs to `net`"),
        ({"input_tensor": None}, "`input_tensor` is no option .*give its shape"),
        ({"include_top": False}, "default loss is for 10 outputs.*Received: 'no top'"),
        ({"classifier_activation": "sigmoid"}, "end in 'softmax'.*Received: 'sigmoid'"),
    ],
)
def test_wrong_arguments_are_refused_early(changes, message, architecture):
    arguments = {"net": architecture, "space": SearchSpace(units=(1, 2)), "classes": 10}
    with pytest.raises(ValueError, match=message):
        PreActHyperModel(**{**arguments, "input_shape": SHAPE, **changes})


@pytest.mark.parametrize("pooling", [None, "avg"])
def test_costs_are_those_without_the_top(pooling, architecture):
    hypermodel = PreActHyperModel(
        architecture,
        SearchSpace(units=(1, 2)),
        input_shape=SHAPE,
        classes=10,
        compile=lambda model, hp: model.compile("sgd", "mse"),
        include_top=False,
        pooling=pooling,
    )
    hp = hypermodel.hyperparameters()
    model = hypermodel.build(hp)
    assert len(model.output_shape) == (2 if pooling else 4)
    assert model_cost(model).total == hypermodel.candidates.cost(hp.values)


@pytest.mark.parametrize("classes", [1, 10])
@pytest.mark.parametrize("logits", [False, True])
def test_the_default_loss_fits_the_output(classes, logits, architecture):
    options = {"classifier_activation": None} if logits else {}
    space = SearchSpace(units=(1, 2))
    hypermodel = PreActHyperModel(
        architecture, space, input_shape=SHAPE, classes=classes, **options
    )
    model = hypermodel.build(hypermodel.hyperparameters())
    x, y = images(8)
    labels = y % max(classes, 2)
    received = model.evaluate(x, labels, verbose=0, return_dict=True)
    scores = model.predict(x, verbose=0).astype("float64")
    if classes == 1:
        scores = np.log(scores / (1 - scores)) if not logits else scores
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    elif not logits:
        scores = np.log(scores)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    # Predictions are float32.
    expected = -np.log(shares[np.arange(8), labels]).mean()
    assert received["loss"] == pytest.approx(expected, rel=1e-4)
    assert received["accuracy"] == pytest.approx((scores.argmax(axis=1) == labels).mean())


def test_a_net_beyond_the_limits_is_a_failed_trial(architecture):
    limit = architecture_cost(architecture, SHAPE, 10).flops
    hypermodel = PreActHyperModel(
        architecture,
        SearchSpace(units=((1, 2), (1,))),
        input_shape=SHAPE,
        classes=10,
        constraints=Constraints(max_flops=limit, fill=False),
    )
    hp = hypermodel.hyperparameters()
    assert isinstance(hypermodel.build(hp), keras.Model)
    hp.values["units_stage2"] = 2
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="times what the limits allow"):
        hypermodel.build(hp)


def test_values_that_do_not_fit_are_a_failed_trial(architecture):
    space = SearchSpace(channels=(8, 32), choices={"norm": ("batch", "group")})
    net = architecture.replace(stem_channels=32)
    hypermodel = PreActHyperModel(net, space, input_shape=SHAPE, classes=10)
    hp = hypermodel.hyperparameters()
    hp.values["norm"] = "group"
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="norm_groups"):
        hypermodel.build(hp)


def test_kernels_decay_and_norms_do_not(architecture):
    space = SearchSpace(units=(1, 2), weight_decay=(1e-2,))
    hypermodel = PreActHyperModel(architecture, space, input_shape=SHAPE, classes=10)
    model = hypermodel.build(hypermodel.hyperparameters())
    assert model.optimizer.weight_decay == 1e-2
    decayed = {id(each) for each in keras_preact.decayed_variables(model)}
    for variable in model.trainable_variables:
        assert model.optimizer._use_weight_decay(variable) == (id(variable) in decayed)


def test_any_compilation_may_be_given(architecture):
    def compile(model, hp):
        model.compile(keras.optimizers.Adam(hp.Float("adam", 1e-4, 1e-2)), "mse")

    hypermodel = PreActHyperModel(
        architecture, SearchSpace(units=(1, 2)), input_shape=SHAPE, classes=10, compile=compile
    )
    hp = hypermodel.hyperparameters()
    assert isinstance(hypermodel.build(hp).optimizer, keras.optimizers.Adam)
    assert "adam" in hp.values
