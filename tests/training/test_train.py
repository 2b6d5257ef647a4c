import argparse
import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact.files import replacing, write_json
from training.compiling import compile_for_training, in_top5
from training.engines import fitting
from training.engines.callbacks.averaging import averaged_weights
from training.engines.callbacks.divergence import exploded_loss
from training.engines.callbacks.preemption import Preempted
from training.engines.devices import choose_devices
from training.engines.fitting import Job
from training.engines.fitting import train as train_net
from training.engines.pipelines import PipelineBatches
from training.evaluate import evaluate
from training.net import build_net
from training.pace import Pace
from training.recipe import Recipe, load_recipe
from training.run import Run, read_run
from training.sources import open_source
from training.train import describe, parse_arguments

# Nothing holds the maps of this net within bounds.
NORM_FREE = ["units=[1,1]", "channels=[8,16]", "strides=[1,2]", 'norm="none"']
NORM_FREE += ['residual_scaling="skip_init"']


def test_a_run_leaves_what_it_promises(train, finished, capsys):
    output, printed = finished.folder, finished.printed
    record = read_run(output)
    assert record["status"] == "finished"
    assert record["recipe"]["seed"] == record["seed"] == 7
    assert record["source"] == "digits"
    assert record["class_names"] == [str(digit) for digit in range(10)]
    assert record["preprocessing"]["input_size"] == 8
    assert {"keras_preact", "keras", "tensorflow", "numpy", "python"} <= record["versions"].keys()
    assert "--seed 7" in record["command"]
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2, 3]
    assert record["best"] == max(record["history"], key=lambda epoch: epoch["val_top1"])
    with open(output / "history.csv") as file:
        assert [float(row["val_top1"]) for row in csv.DictReader(file)] == [
            epoch["val_top1"] for epoch in record["history"]
        ]
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((output / "tensorboard").glob("*/events*"))
    assert not list(output.glob("**/partial-*"))
    assert f"best {record['best']['val_top1']:.2%}" in printed
    assert str(output / "curves.png") in printed

    # The same command again: nothing is left to do.
    written = (output / "model.keras").stat().st_mtime_ns
    assert train(output, *finished.options) == 0
    assert "finished" in capsys.readouterr().out
    assert (output / "model.keras").stat().st_mtime_ns == written

    # Another recipe: not in this folder.
    assert train(output, "--seed", "8") == 2
    assert "seed: 7 then, 8 now" in capsys.readouterr().err

    # The saved net needs nothing of this package, and is the net of the last evaluation.
    net = keras.saving.load_model(output / "model.keras")
    assert not net.compiled
    net.compile(metrics=["accuracy"], loss="categorical_crossentropy")
    from training.data import evaluation_pipeline

    recipe = Recipe(**record["preprocessing"], channels=1)
    results = net.evaluate(
        evaluation_pipeline(open_source("digits"), recipe), verbose=0, return_dict=True
    )
    assert results["accuracy"] == pytest.approx(record["history"][-1]["val_top1"])


def test_a_run_killed_after_its_last_epoch_still_gets_its_model(train, finished, tmp_path):
    output = finished.copy(tmp_path / "run")
    expected = keras.saving.load_model(output / "model.keras").get_weights()
    (output / "model.keras").unlink()
    write_json(output / "run.json", read_run(output) | {"status": "running"})
    keras.backend.clear_session(free_memory=False)
    assert train(output, *finished.options) == 0
    assert read_run(output)["status"] == "finished"
    received = keras.saving.load_model(output / "model.keras").get_weights()
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "PreActResNet21"), "Did you mean PreActResNet20?"),
        (("--model-options", "drop_pth=0.1"), "drop_pth"),
        (("--channels", "3"), "`mean` must have one value for each of `channels` = 3"),
        (("--batch-size", "2000"), "1437"),
        (("--data", "digit"), "Did you mean"),
        (("--devices", "TPU:0"), "Received: TPU:0"),
        (("--devices", "GPU:99"), "GPU:99"),
        (("--recipe", "cifar_shrt"), "Did you mean 'cifar_short'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    train, tmp_path, capsys, options, message
):
    output = tmp_path / "run"
    assert train(output, *options) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_images_of_one_class_are_refused(train, tmp_path, capsys):
    """As those of a folder too many, which would be told apart by 100%."""
    for path in (f"{split}/all/{name}/a.png" for split in ("train", "test") for name in "xy"):
        (tmp_path / "set" / path).parent.mkdir(parents=True)
        (tmp_path / "set" / path).touch()
    output = tmp_path / "run"
    assert train(output, "--data", str(tmp_path / "set"), "--batch-size", "2") == 2
    assert "must be of two classes or more" in capsys.readouterr().err
    assert not output.exists()


def test_a_folder_with_other_things_is_refused(train, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("work of years")
    assert train(tmp_path) == 2
    assert "thesis.txt" in capsys.readouterr().err


def test_a_run_that_diverges_stops(train, tmp_path, capsys):
    output = tmp_path / "run"
    assert train(output, "--learning-rate", "1e30", "--warmup-epochs", "0") == 1
    error = capsys.readouterr().err
    assert "The loss is nan at step 10 (epoch 1), where the learning rate is" in error
    assert f"The last good checkpoint is {output}/checkpoint/last.npz, after epoch 0 of 3." in error
    assert read_run(output)["history"] == []


def test_a_run_that_diverges_goes_back_once(train, tmp_path, capsys):
    options = ["--warmup-epochs", "0", "--schedule", "constant", "--epochs", "1", "--rollback"]
    options += ["--model-options", *NORM_FREE]
    exploding, hopeless = tmp_path / "exploding", tmp_path / "hopeless"
    assert train(exploding, *options, "--learning-rate", "7") == 0
    assert "Going back to it once, with half the learning rate." in capsys.readouterr().out
    record = read_run(exploding)
    assert record["rollbacks"] == [{"epoch": 1, "step": 10, "learning_rate": 7.0}]
    assert [epoch["learning_rate"] for epoch in record["history"]] == [3.5]
    assert record["recipe"]["learning_rate"] == 7.0
    keras.backend.clear_session(free_memory=False)
    assert train(hopeless, *options, "--learning-rate", "1000") == 1
    captured = capsys.readouterr()
    assert "Going back to it once" in captured.out
    assert "where the learning rate is 500" in captured.err


class EndAtStep4(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 3


def test_a_run_that_is_asked_to_stop_goes_on_within_the_epoch(tiny_recipe, tmp_path):
    """By a callback or a signal; with the metrics and weights of a whole run, to the last bit."""
    recipe, source = load_recipe(tiny_recipe), open_source("digits")
    recipe = recipe.replace(epochs=2, steps_per_execution=1)
    devices = choose_devices()
    job = Job(recipe, PipelineBatches(source, recipe, devices), devices)
    options = argparse.Namespace(recipe="tiny", deterministic=False, data_on_device=False)

    def start(
        folder: str, seed: int, stop_requested=lambda: False, callbacks=()
    ) -> tuple[list, list]:
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(seed)
        run = Run(tmp_path / folder, describe(options, recipe, source))
        run.start([], [])
        net = job.build_net()
        pace = Pace(stop_requested=stop_requested)
        history = train_net(job, net, run, pace, callbacks).history
        return [{**each, "seconds": 0} for each in history], net.get_weights()

    whole, weights = start("whole", seed=0)

    def steps_saved() -> int:
        with np.load(tmp_path / "stopped" / "checkpoint" / "last.npz") as arrays:
            progress = json.loads(str(arrays["progress"]))
        assert progress["history"] == []
        return progress["step"]

    start("stopped", seed=0, callbacks=[EndAtStep4()])
    assert steps_saved() == 4
    # Whatever random numbers the process that goes on began with.
    after_each_step = iter([False] * (job.steps - 5) + [True])
    with pytest.raises(Preempted):
        start("stopped", seed=4, stop_requested=lambda: next(after_each_step))
    assert steps_saved() == job.steps
    history, received = start("stopped", seed=1)
    assert history == whole
    for one, other in zip(received, weights, strict=True):
        np.testing.assert_array_equal(one, other)


class Counter(keras.callbacks.Callback):
    """A callback as a user writes it."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append((batch, logs["loss"] > 0))

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


COUNTER = Counter()


def own_callbacks():
    return [COUNTER]


def test_a_callback_of_one_s_own_is_called_and_may_stop_the_run(
    train, tmp_path, capsys, monkeypatch
):
    weights = []

    def limit(classes, class_weights):
        weights.extend(class_weights)
        return exploded_loss(classes, class_weights)

    monkeypatch.setattr(fitting, "exploded_loss", limit)
    options = ["--callbacks", f"{__name__}:own_callbacks", "--class-weight", "balanced"]
    options += ["--epoch-steps", "2", "--save-every", "3", "--steps-per-execution", "1"]
    assert train(tmp_path, *options) == 0
    assert len(weights) == 10 and max(weights) > 1
    assert COUNTER.steps == [(0, True), (1, True)]
    assert "Stopped after epoch 1 of 3" in capsys.readouterr().out
    with np.load(tmp_path / "checkpoint" / "last.npz") as arrays:
        assert len(json.loads(str(arrays["progress"]))["history"]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:make", "must be module:function, importable from here. Received: 'nowhere:make'"),
        ("json", "must be module:function"),
        ("json:nothing", "has no attribute 'nothing'"),
        ("builtins:dict", "builtins:dict must return callbacks of Keras. Received: {}"),
    ],
)
def test_what_makes_no_callbacks_is_refused(train, tmp_path, capsys, name, message):
    assert train(tmp_path / "run", "--callbacks", name) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_version_with_fewer_values_goes_on(train, finished, tmp_path, capsys):
    output = finished.copy(tmp_path / "run")
    record = read_run(output)
    for name in ("steps_per_execution", "class_weight"):
        del record["recipe"][name]
    write_json(output / "run.json", record)
    assert train(output, *finished.options) == 0
    assert "is finished" in capsys.readouterr().out
    assert train(output, *finished.options, "--class-weight", "balanced") == 2
    assert "class_weight: 'none' then, 'balanced' now" in capsys.readouterr().err


def test_a_run_goes_on_with_values_that_do_not_decide_what_is_trained(
    train, finished, tmp_path, capsys
):
    output = finished.copy(tmp_path / "run")
    others = ["--max-corrupt-images", "40", "--steps-per-execution", "3", "--jit-compile"]
    assert train(output, *finished.options, *others) == 0
    assert "is finished" in capsys.readouterr().out


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_arguments(["--help", "--recipe", "imagenet_paper"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--data", "--output", "--devices", "--deterministic", "--mixup-alpha"):
        assert option in text
    assert "(default: 30.0 60.0)" in text


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_compiled_model_is_saved_and_loaded(small_net, tmp_path, momentum):
    net = small_net(input_shape=(8, 8, 1), classes=7)
    model = compile_for_training(net, Recipe(ema_momentum=momentum), 10)
    images, labels = np.random.default_rng(0).random((2, 8, 8, 1), "float32"), np.eye(7)[:2]
    expected = model.evaluate(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), net(images))
    assert loaded.evaluate(images, labels, verbose=0) == expected
    # Without averages the file needs nothing of this package's training, once it is trained.
    assert (type(loaded) is type(net)) == (momentum == 0)


@pytest.mark.parametrize(("classes", "names"), [(5, ["top1"]), (6, ["top1", "top5"])])
def test_top5_is_measured_where_it_says_something(small_net, classes, names):
    net = small_net(input_shape=(8, 8, 1), classes=classes)
    model = compile_for_training(net, Recipe(), 10)
    kernel, bias = net.get_layer("predictions").weights
    kernel.assign(np.zeros(kernel.shape))
    # So sure of class 3 that no other has a probability: ties are no hits, as in `evaluate`.
    bias.assign(200 * np.eye(classes)[3])
    images, labels = np.zeros((classes, 8, 8, 1), "float32"), np.eye(classes, dtype="float32")
    results = model.evaluate(images, labels, verbose=0)
    assert [metric.name for metric in model.metrics[-1].metrics] == names
    batches = tf.data.Dataset.from_tensors((images, labels))
    evaluation = evaluate(net, batches, [f"class {number}" for number in range(classes)])
    expected = [evaluation.top1, evaluation.top5][: len(names)]
    np.testing.assert_allclose(results[1:], expected)
    assert expected == [1 / classes, 5 / 6][: len(names)]


def test_answers_that_are_no_numbers_are_no_hits():
    labels = np.eye(7, dtype="float32")[:2]
    scores = np.full((2, 7), 1 / 7, "float32")
    scores[0] = np.nan
    np.testing.assert_array_equal(in_top5(labels, scores), [0, 1])


def test_the_net_follows_the_recipe():
    recipe = Recipe(
        model="PreActResNet20",
        input_size=16,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        dtype_policy="mixed_bfloat16",
        model_options={"units": [1, 1, 1], "drop_path": 0.1},
    )
    net = build_net(recipe, classes=7)
    assert net.input_shape == (None, 16, 16, 1)
    assert net.output_shape == (None, 7)
    assert net.output.dtype == "float32"
    assert {layer.compute_dtype for layer in net.layers} >= {"bfloat16"}
    assert any("drop_path" in layer.name for layer in net.layers)


def test_a_confident_mistake_still_gets_a_gradient(small_net):
    # The loss must reach the logits: clipped probabilities would have no gradient here.
    net = small_net(input_shape=(8, 8, 1), classes=3)
    recipe = Recipe(momentum=0.0, weight_decay=0.0, schedule="constant", reference_batch_size=0)
    model = compile_for_training(net, recipe, 10)
    kernel, bias = net.get_layer("predictions").weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign([40.0, 0.0, 0.0])
    loss = model.train_on_batch(np.zeros((2, 8, 8, 1)), np.eye(3)[[1, 1]])[0]
    assert float(loss) == pytest.approx(40.0, rel=1e-4)
    np.testing.assert_allclose(bias.numpy(), [39.9, 0.1, 0.0], atol=1e-5)


def test_evaluation_uses_the_average_and_leaves_no_trace(small_net):
    net = small_net(input_shape=(8, 8, 1), classes=3)
    recipe = Recipe(ema_momentum=0.9, learning_rate=1.0, schedule="constant")
    model = compile_for_training(net, recipe, 10)
    images = np.random.RandomState(0).normal(size=(6, 8, 8, 1)).astype("float32")
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    for _ in range(3):
        model.train_on_batch(images, labels)
    trained = [weight.numpy() for weight in net.weights]
    plain = model.evaluate(images, labels, verbose=0, return_dict=True)
    with averaged_weights(model):
        averaged = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert averaged["loss"] != plain["loss"]
    for weight, value in zip(net.weights, trained, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@pytest.mark.numerical
def test_xla_takes_the_same_step(small_net):
    images = np.random.RandomState(0).normal(size=(6, 8, 8, 1)).astype("float32")
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    weights = []
    for compiled in (False, True):
        net = small_net(1, input_shape=(8, 8, 1), classes=3)
        model = compile_for_training(net, Recipe(jit_compile=compiled), 10)
        model.train_on_batch(images, labels)
        weights.append([weight.numpy() for weight in net.weights])
    # The unit roundoff of float32, 6e-8, times the root of the 5e4 products in a gradient of the
    # stem, and as much again in each of the layers behind it.
    for plain, xla in zip(*weights, strict=True):
        np.testing.assert_allclose(plain, xla, rtol=1e-4, atol=1e-5)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "value.json"
    path.write_text(json.dumps("old"))
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text('"ne')
        raise RuntimeError("killed")
    assert json.loads(path.read_text()) == "old"
