"""Callbacks and the model of a run, on anyone's `model.fit`."""

from __future__ import annotations

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.engines.callbacks.averaging import AveragedWeights
from training.engines.callbacks.divergence import Diverged, DivergenceGuard, exploded_loss
from training.engines.callbacks.patience import Patience
from training.engines.callbacks.preemption import Preempted, Preemption
from training.engines.callbacks.progress import ProgressBar
from training.engines.callbacks.record import Checkpoint, Record
from training.engines.callbacks.steps import StepCallbacks, StepLogs
from training.engines.devices import one_device
from training.engines.fitting import build_metrics
from training.records.checkpoint import Progress

STEPS = 7


class Heard(keras.callbacks.Callback):
    """The steps that callbacks hear of, with the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.ended, self.losses = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.ended.append(batch)
        self.losses.append(logs["loss"])


def make_model(steps_per_execution: int = 1, rate: float = 0.1) -> keras.Model:
    """A linear model, as compiled and built for a run."""
    # Keras's own function for seeds would empty TensorFlow's cache of kernels.
    random.seed(0)
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2, activation="softmax")(inputs)
    model = one_device().model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(rate, use_ema=True, ema_momentum=0.5),
        "categorical_crossentropy",
        metrics=[keras.metrics.CategoricalAccuracy(name="top1")],
        steps_per_execution=steps_per_execution,
    )
    model.optimizer.build(model.trainable_variables)
    build_metrics(model, one_device())
    return model


def batches(first_step: int = 0) -> tf.data.Dataset:
    """Batches of which each depends on its number only."""

    def make(step):
        images = tf.random.stateless_normal([4, 3], [1, step])
        return images, tf.one_hot(tf.cast(images[:, 0] > 0, tf.int32), 2)

    return tf.data.Dataset.range(first_step, 2**40).map(make)


TEST = batches().take(3)


def fit(model, callbacks=(), epochs=2, progress=None):
    """Train as `fitting.train` does."""
    progress = progress or Progress()
    callbacks = StepCallbacks(callbacks, model, steps=STEPS, epochs=epochs, progress=progress)
    return go_on(model, callbacks, progress.epochs * STEPS + progress.step, progress.epochs, epochs)


def go_on(model, callbacks, first_step, epoch, epochs=2):
    """Train from a step and an epoch on, both counted from 0."""
    return model.fit(
        batches(first_step),
        validation_data=TEST,
        steps_per_epoch=STEPS,
        initial_epoch=epoch,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values == other[name], name


def test_steps_in_one_execution_are_the_same_steps():
    """The steps of an epoch, and those of an evaluation, need not divide."""
    single, several, heard = make_model(), make_model(3), Heard()
    assert_same(fit(single), fit(several, [heard]))
    assert int(several.optimizer.iterations) == 2 * STEPS
    assert heard.begun == [0, 3, 6] * 2
    assert heard.ended == [2, 5, 6] * 2
    for one, other in zip(single.get_weights(), several.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_a_begun_epoch_is_taken_up_bit_for_bit(steps_per_execution):
    whole, progress, saved = make_model(), Progress(), []
    expected = fit(whole, [AveragedWeights()])
    model = make_model(steps_per_execution)
    variables = model.variables + model.optimizer.variables
    checkpoint = Checkpoint(progress, lambda at: saved.extend(each.numpy() for each in variables))
    record = Record(progress, lambda step: 0.1, lambda: None)
    # Within the second epoch.
    stop = Preemption(lambda: bool(progress.history), checkpoint.save_within_epoch)
    with pytest.raises(Preempted):
        fit(model, [AveragedWeights(), record, checkpoint, stop])
    # Epochs are saved too.
    del saved[: len(variables)]
    assert (progress.epochs, progress.step) == (1, steps_per_execution)

    resumed, heard = make_model(), Heard()
    for variable, value in zip(resumed.variables + resumed.optimizer.variables, saved, strict=True):
        variable.assign(value)
    received = fit(resumed, [AveragedWeights(), heard], 2, progress)
    assert heard.begun == list(range(steps_per_execution, STEPS))
    assert received == {name: values[1:] for name, values in expected.items()}
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_after_a_begun_epoch_the_others_follow_unless_a_callback_stops():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    model = make_model()
    progress = Progress([{}], {}, step=5, metrics=[0.0] * len(model.metrics_variables))
    assert len(fit(model, [Stop()], 9, progress)["loss"]) == 2
    assert int(model.optimizer.iterations) == 2 + STEPS

    class StopAtLastStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == STEPS - 1

    model = make_model()
    assert len(fit(model, [StopAtLastStep()], 9, progress)["loss"]) == 1
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_an_epoch_without_a_step_left_is_evaluated_and_the_others_follow(steps_per_execution):
    whole, model, heard = make_model(), make_model(steps_per_execution), Heard()
    expected, progress = fit(whole), Progress()
    states = model.metrics_variables
    checkpoint = Checkpoint(progress, lambda at: None)

    def stopped():
        return int(model.optimizer.iterations) == STEPS

    with pytest.raises(Preempted):
        fit(model, [checkpoint, Preemption(stopped, checkpoint.save_within_epoch)])
    assert (progress.step, len(progress.metrics)) == (STEPS, len(states))
    callbacks = StepCallbacks([heard], model, steps=STEPS, epochs=2, progress=progress)

    def evaluate():
        return model.evaluate(TEST, callbacks=callbacks, verbose=0, return_dict=True)

    model.reset_metrics()
    callbacks.complete_epoch(0, evaluate)
    assert heard.begun == []
    go_on(model, callbacks, first_step=STEPS, epoch=1)
    assert_same(expected, model.history.history)
    assert heard.ended[-1] == STEPS - 1
    for one, other in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class Accuracies(keras.callbacks.Callback):
    """The test accuracies that the callbacks after this one see."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_top1"] = [0.1, 0.5, 0.4, 0.5, 0.4, 0.6][epoch]


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 3), (3, 5)])
def test_patience_counts_epochs_without_a_better_one_also_in_a_run_that_goes_on(patience, epochs):
    saved = []

    def run(progress):
        checkpoint = Checkpoint(progress, lambda at: saved.append(at.epochs), every=10)
        record = Record(progress, lambda step: 0.1, lambda: None)
        callbacks = [Accuracies(), record, Patience(progress, patience), checkpoint]
        fit(make_model(), callbacks, 6, progress)
        return progress

    whole = run(Progress())
    assert whole.epochs == epochs and saved == [epochs]
    # As read from a checkpoint.
    begun = Progress(history=whole.history[:2], best=whole.history[1])
    assert run(begun).epochs == epochs
    other_workers = Patience(Progress(best={"epoch": 1}, history=[{}]), 1, agree=lambda own: True)
    other_workers.set_model(make_model())
    other_workers.on_epoch_end(0)
    assert other_workers.model.stop_training


def test_a_loss_that_explodes_within_an_epoch_ends_it():
    model = make_model(rate=float("inf"))
    with pytest.raises(Diverged, match="The loss is nan at step 2 .epoch 1., where the learning"):
        fit(model, [DivergenceGuard(10.0, every=2)])
    agreed = []
    guard = DivergenceGuard(10.0, every=3, agree=lambda value: agreed.append(value) or False)
    fit(make_model(), [guard], epochs=1)
    # After 3, 6 and 7 steps, and for the evaluation; alike in every worker.
    assert agreed == [False] * 4


def test_a_loss_has_exploded_above_the_weight_of_the_rarest_class():
    limit = exploded_loss(10)
    assert exploded_loss(10, np.array([0.5, 30.0])) == pytest.approx(30 * limit)
    assert exploded_loss(10, np.array([0.5, 0.9])) == limit


def test_records_hold_plain_numbers_whatever_a_callback_adds():
    progress = Progress()
    record = Record(progress, lambda step: tf.constant(0.5), lambda: None)
    record.set_model(make_model())
    record.on_epoch_begin(0)
    added = {"half": np.float32(0.5), "two": np.int64(2), "nan": float("nan"), "name": "a"}
    record.on_epoch_end(0, {"val_top1": 0.5, "tensor": tf.constant(0.5), **added})
    read = json.loads(json.dumps(progress.history[0], allow_nan=False))
    assert read == progress.history[0]
    expected = {"half": 0.5, "two": 2, "nan": None, "name": "a", "tensor": 0.5}
    assert {name: read[name] for name in expected} == expected


def test_a_bar_gives_the_terminal_back(capsys):
    with ProgressBar() as bar:
        fit(make_model(), [bar], epochs=1)
    line = capsys.readouterr().out
    assert "epoch 1/1  loss " in line
    assert "val_top1 " in line
    with pytest.raises(KeyboardInterrupt), ProgressBar() as bar:
        fit(make_model(), [bar, _interrupting()], epochs=1)
    assert bar._bar.finished is False
    assert not bar._bar.live.is_started


def _interrupting() -> keras.callbacks.Callback:
    def interrupt(batch, logs):
        raise KeyboardInterrupt

    return keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)


def test_a_fit_of_one_s_own_hears_numbers():
    """Logs become numbers when they are read, whatever a callback does with them."""
    heard = Heard()
    fit(make_model(), [heard], epochs=1)
    assert {type(loss) for loss in heard.losses} == {float}
    logs = StepLogs({"loss": tf.constant(0.5), "words": "none"})
    assert dict(logs) == {"loss": 0.5, "words": "none"}
    assert sorted(logs.items()) == [("loss", 0.5), ("words", "none")]
