"""Train on some logical CPU devices and write what came out.

Logical devices must be set before TensorFlow starts, so each number of them needs a process of its
own.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_preact
from training.compiling import compile_for_training
from training.engines.callbacks.averaging import AveragedStatistics, AveragedWeights
from training.engines.callbacks.steps import StepCallbacks
from training.engines.fitting import build_metrics
from training.engines.strategy import Strategy, average_statistics, make_strategy
from training.optimizer import averaged_statistics
from training.recipe import Recipe

CLASSES = 3
STEPS = 4


def residual_net() -> keras.Model:
    architecture = keras_preact.Architecture(
        unit="basic",
        units=(3, 1),
        channels=(8, 16),
        strides=(1, 2),
        stem="cifar",
        stem_channels=8,
        scan_units=True,
    )
    return keras_preact.PreActResNet(architecture, input_shape=(8, 8, 1), classes=CLASSES)


def net_without_norm() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(vector))


def images_and_labels(distinct: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of some images, each part of it the same."""
    random = np.random.RandomState(0)
    images = random.normal(size=(distinct, 8, 8, 1)).astype("float32")
    labels = np.eye(CLASSES, dtype="float32")[random.randint(0, CLASSES, distinct)]
    return np.tile(images, (copies, 1, 1, 1)), np.tile(labels, (copies, 1))


def train(
    net: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    steps_per_execution: int = 1,
    **changes: float,
) -> dict[str, np.ndarray]:
    """Some steps on one global batch of 12; evaluation of 15 images, in uneven parts."""
    recipe = Recipe(ema_momentum=0.5, nesterov=True, schedule="constant", label_smoothing=0.1)
    recipe = recipe.replace(**changes)
    strategy = net.distribute_strategy
    devices = Strategy(strategy)
    model = devices.model(net.inputs, net.outputs, name=net.name)
    batch = tf.data.Dataset.from_tensors((images, labels))
    more = (np.concatenate([images, images[:3]]), np.concatenate([labels, labels[:3]]))
    test_images = tf.data.Dataset.from_tensor_slices(more)
    # One epoch of several steps: TensorFlow takes seconds to drop an iterator over logical CPUs.
    with strategy.scope():
        compile_for_training(net, recipe, STEPS, model)
        build_metrics(model, devices)
        model.steps_per_execution = steps_per_execution
        history = model.fit(
            devices.share(lambda context: batch.repeat(), len(images)),
            validation_data=devices.share(lambda context: test_images.batch(8), 8),
            steps_per_epoch=STEPS,
            callbacks=StepCallbacks(
                [AveragedStatistics(devices.average_statistics), AveragedWeights()],
                model,
                steps=STEPS,
                epochs=1,
            ),
            verbose=0,
        ).history
    weights = {f"weight {index}": weight.numpy() for index, weight in enumerate(net.weights)}
    return {**{name: np.array(values) for name, values in history.items()}, **weights}


def statistics_of_replicas(model: keras.Model) -> list[np.ndarray]:
    """The moving statistics and their averages, (replicas, ...)."""
    local = model.distribute_strategy.experimental_local_results
    averages = [average for _, average in averaged_statistics(model.optimizer)]
    variables = [*model.non_trainable_variables, *averages]
    return [np.stack(local(variable.value)) for variable in variables]


def spread_of_statistics(model: keras.Model) -> np.ndarray:
    """How far the statistics of the replicas lie apart, at most."""
    copies = statistics_of_replicas(model)
    return np.max([np.ptp(values, axis=0).max() for values in copies])


def train_on(devices: int, output: Path) -> None:
    strategy = make_strategy([f"CPU:{index}" for index in range(devices)])
    assert strategy.num_replicas_in_sync == devices
    keras.utils.set_random_seed(0)
    with strategy.scope():
        # Batch norm takes the statistics of a replica's part of the batch, so that the outcome
        # can only be the same for any number of replicas if the parts are alike.
        net = residual_net()
        plain = net_without_norm()
    runs = {
        "alike": train(net, *images_and_labels(distinct=3, copies=4), layer_decay=0.5),
        # In micro-batches, which the replicas share as well.
        "distinct": train(
            plain,
            *images_and_labels(distinct=12, copies=1),
            steps_per_execution=3,
            batch_size=12,
            reference_batch_size=12,
            gradient_accumulation_steps=3,
        ),
    }
    results = {f"{run} {name}": runs[run][name] for run in runs for name in runs[run]}
    if devices > 1:
        results |= statistics_of_parts(net)
    results["threads"] = tf.config.threading.get_intra_op_parallelism_threads()
    np.savez(output, **results)


def statistics_of_parts(net: keras.Model) -> dict[str, np.ndarray]:
    """Return how far apart the statistics of replicas lie, before and after they are averaged."""
    # Parts that differ: the statistics drift apart, and are averaged.
    with net.distribute_strategy.scope():
        model = compile_for_training(net, Recipe(ema_momentum=0.5), STEPS)
    images, labels = images_and_labels(distinct=12, copies=2)
    model.fit(images, labels, batch_size=12, verbose=0)
    before = spread_of_statistics(model)
    expected = [np.mean(copies, axis=0) for copies in statistics_of_replicas(model)]
    average_statistics(model)
    for copies, mean in zip(statistics_of_replicas(model), expected, strict=True):
        np.testing.assert_allclose(copies[0], mean, rtol=1e-5)
    return {"spread before": before, "spread after": spread_of_statistics(model)}
