"""Memory of a job's first steps, in a process of its own that may be stopped.

    python -m training.step_memory REPORT SIZE ARGUMENTS

ARGUMENTS are those of `training.train`, whose output folder is left alone. SIZE is the number of
images that pass the net at a time; 0 for as many as are computed to fit. REPORT is a JSON file that
`training.batch_choice` reads: what the job takes as computed, and then, once it has made its steps,
the peak that was measured; or the error that `training.train` would end with.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import keras

from keras_preact.analysis import model_cost
from keras_preact.files import write_json
from keras_preact.tensor import bytes_of
from training.batch_choice import Demand, next_size
from training.data import evaluated_spec, kept_bytes, stored_spec
from training.engines.fitting import compiled_model
from training.engines.prepare import Opened, open_images
from training.memory import GIB, device_bytes, free_bytes, resident_bytes
from training.net import prepare_net
from training.process_memory import peak_bytes
from training.recipe import AUTO, Recipe
from training.task import task_of
from training.train import parse_arguments

# The backward pass holds gradients of maps, maps that are computed again, and what kernels need
# beside the maps that are kept: this much of them.
TEMPORARIES = 0.5
# Batches of images that stand ready.
PREFETCHED = 3
# The second step begins while what the first one left is still there.
STEPS = 2


def main(arguments: Sequence[str]) -> int:
    """Make the first steps of a job, and write what they take.

    Args:
        arguments: The command line, without the program.

    Returns:
        The exit status: 0; 2 if the job is wrong.
    """
    report, size, *rest = arguments
    _be_first_to_go()
    try:
        options, recipe = parse_arguments(rest)
        opened = open_images(options, recipe)
        with opened.devices.scope():
            net = prepare_net(opened.recipe, opened.images.class_names, task_of(opened.images))
        demand = demand_of(opened, net, options)
        chosen = int(size) or next_size(demand)
        if chosen is None:
            raise ValueError(
                f"`gradient_accumulation_steps` x {demand.devices} devices must be at most the "
                f"{demand.batch_size or demand.images} images that there are. Received: "
                f"{recipe.gradient_accumulation_steps}"
            )
        batch_size, parts = demand.batch(chosen)
        changes = {"batch_size": batch_size, "gradient_accumulation_steps": parts}
        job = opened.job(opened.recipe.replace(**changes))
    except (ValueError, TypeError, OSError) as error:
        write_json(report, {"error": str(error)})
        return 2
    record = {"demand": asdict(demand), "size": chosen}
    write_json(report, record)
    model = compiled_model(job, net)
    with job.devices.scope():
        model.fit(job.batches.training(0), steps_per_epoch=STEPS, verbose=0, shuffle=False)
    # The first evaluation keeps its images.
    kept = 0 if options.data_on_device or not demand.on_host else _evaluated_bytes(opened)
    write_json(report, record | {"peak": peak_bytes() + kept})
    return 0


def demand_of(opened: Opened, net: keras.Model, options: argparse.Namespace) -> Demand:
    """Compute the memory of a job.

    Args:
        opened: The job.
        net: Its net.
        options: The command line, whose `memory_gib` may limit the memory.

    Returns:
        The memory, of one accelerator, or of the whole machine.
    """
    recipe, on_device = opened.recipe, device_bytes()
    if options.memory_gib is not None:
        limit, source = options.memory_gib * GIB, "--memory-gib"
    elif on_device is not None:
        limit, source = on_device, "that of the device"
    else:
        limit, source = free_bytes() + resident_bytes(), "free on this machine"
    trained = sum(bytes_of(each.shape, each.dtype) for each in net.trainable_variables)
    # Gradients, velocities, averages, sums of gradients.
    copies = 2 + (recipe.ema_momentum > 0) + 1
    fixed, shared = resident_bytes() + copies * trained, 1
    if not options.data_on_device:
        count = opened.images.num_examples("train")
        fixed += kept_bytes(count, stored_spec(recipe), recipe) + _evaluated_bytes(opened)
    if on_device is not None:
        fixed, shared = (copies + 1) * trained, opened.devices.replicas
    return Demand(
        fixed=fixed,
        per_image=_bytes_per_image(net, recipe) / shared,
        limit=limit,
        source=source,
        on_host=on_device is None,
        images=opened.images.num_examples("train"),
        devices=opened.devices.replicas,
        batch_size=0 if recipe.batch_size == AUTO else recipe.batch_size,
        parts=recipe.gradient_accumulation_steps,
    )


def _bytes_per_image(net: keras.Model, recipe: Recipe) -> float:
    """Return the bytes that an image of a micro-batch takes, with its copies that stand ready."""
    image = bytes_of((recipe.input_size, recipe.input_size, recipe.channels), "float32")
    ready = PREFETCHED * recipe.gradient_accumulation_steps * image
    return (1 + TEMPORARIES) * model_cost(net).training_bytes + ready


def _evaluated_bytes(opened: Opened) -> int:
    """Return the bytes of the images for evaluation that memory keeps."""
    count = opened.images.num_examples("test")
    return kept_bytes(count, evaluated_spec(opened.recipe), opened.recipe)


def _be_first_to_go() -> None:
    """Have Linux kill this process before any other where memory ends."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
