"""Steps per second of `fit`, as `training.train` calls it, against a bare loop.

    python -m benchmarks.fit_steps --save

The loop is a `tf.function` of the step over an iterator of the same batches, called step by step
without callbacks; it reads the metrics every 10 steps, as the divergence guard does. Both train the
same net on a batch in memory, each in a process of its own, in turn. `fit` has the callbacks of a
run, but for those that write files after an epoch.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, processor_folder, table
from benchmarks.workers import Measured, Step, measure_in_turn
from training.engines.callbacks.steps import CHECK_EVERY

# Name of a builder, images of a step, height and width in pixels, about how many seconds it takes.
NETS = (("PreActResNet20", 128, 32, 0.08), ("PreActResNet50", 16, 224, 1.5))
LOOP = "bare loop"
CLASSES = 10


def _prepare(net: str, batch_size: int, size: int) -> tuple[Any, Any, Any]:
    """Compile a net for training, and make its batches."""
    import keras
    import tensorflow as tf

    from training.compiling import compile_for_training
    from training.engines.devices import choose_devices
    from training.engines.fitting import build_metrics
    from training.net import build_net
    from training.recipe import Recipe

    keras.utils.set_random_seed(0)
    recipe = Recipe(model=net, batch_size=batch_size, input_size=size)
    devices = choose_devices()
    images = tf.random.stateless_normal([batch_size, size, size, 3], [0, 0])
    labels = tf.one_hot(tf.range(batch_size) % CLASSES, CLASSES)
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat().prefetch(2)
    with devices.scope():
        built = build_net(recipe, CLASSES)
    model = devices.model(built.inputs, built.outputs)
    compile_for_training(built, recipe, 1000, model)
    build_metrics(model, devices)
    return batches, devices, model


def prepare_loop(net: str, batch_size: int, size: int, steps: int) -> Step:
    """Return some steps of the loop."""
    import tensorflow as tf

    batches, _, model = _prepare(net, batch_size, size)
    iterator = iter(batches)
    one = tf.function(model.train_step, autograph=False)
    step = tf.function(lambda batches: one(batches.get_next()), autograph=False)
    read = tf.function(model.get_metrics_result, autograph=False)

    def run() -> None:
        for number in range(1, steps + 1):
            step(iterator)
            if number % 10 == 0 or number == steps:
                {name: float(value) for name, value in read().items()}

    return run


def prepare_fit(net: str, batch_size: int, size: int, steps: int, execution: int) -> Step:
    """Return an epoch of `fit`."""
    from training.engines.callbacks.averaging import AveragedStatistics, AveragedWeights
    from training.engines.callbacks.divergence import DivergenceGuard, exploded_loss
    from training.engines.callbacks.preemption import Preemption
    from training.engines.callbacks.progress import PlainLog
    from training.engines.callbacks.steps import StepCallbacks

    batches, devices, model = _prepare(net, batch_size, size)
    model.steps_per_execution = execution
    callbacks = [
        AveragedStatistics(devices.average_statistics),
        AveragedWeights(),
        DivergenceGuard(exploded_loss(CLASSES)),
        PlainLog(batch_size, log_every=50),
        Preemption(lambda: False, lambda step: None),
    ]
    return lambda: model.fit(
        batches,
        steps_per_epoch=steps,
        verbose=0,
        shuffle=False,
        callbacks=StepCallbacks(callbacks, model, steps=steps, epochs=1),
    )


def _row(net: str, batch_size: int, name: str, measured: Measured, loop: Measured) -> tuple:
    """Return a line of the table. Processor seconds depend less on what else the machine does."""
    return (
        f"{net}, batch {batch_size}",
        name,
        f"{1 / measured.best_s:.2f}",
        f"{loop.best_s / measured.best_s:.3f}",
        f"{min(loop.cpu_s) / min(measured.cpu_s):.3f}",
    )


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least(1), default=6)
    parser.add_argument(
        "--seconds",
        type=float,
        default=4.0,
        help=f"of a round, about: {CHECK_EVERY} steps or a multiple",
    )
    parser.add_argument("--save", action="store_true", help="write it to the processor's folder")
    options = parser.parse_args()
    command = command_line("benchmarks.fit_steps")
    output = processor_folder() / "fit_steps.md" if options.save else None
    report = Report("Steps of `fit`", command, ("keras", "tensorflow"), output)
    rows = []
    for net, batch_size, size, seconds in NETS:
        # Of a rest that is no whole execution, `fit` would make a smaller one.
        steps = CHECK_EVERY * max(1, round(options.seconds / seconds / CHECK_EVERY))
        arguments = (net, batch_size, size, steps)
        results = measure_in_turn(
            {
                LOOP: (prepare_loop, arguments),
                f"fit, {CHECK_EVERY} steps per execution": (prepare_fit, (*arguments, CHECK_EVERY)),
                "fit": (prepare_fit, (*arguments, 1)),
            },
            options.rounds,
            steps=1,
        )
        for each in results.values():
            each.step_s = [turn / steps for turn in each.step_s]
            each.cpu_s = [turn / steps for turn in each.cpu_s]
        rows += [_row(net, batch_size, name, each, results[LOOP]) for name, each in results.items()]
    header = ("net", "", "steps/s", "ratio", "ratio of processor seconds")
    note = (
        "Steps per second of the fastest round. Ratios are to the bare loop, above 1 where `fit` "
        "is the faster one."
    )
    report.write(f"{table(header, rows)}\n\n{note}")


if __name__ == "__main__":
    main()
