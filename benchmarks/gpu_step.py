"""Training and inference of 50-layer nets on a GPU: Keras on JAX against timm in PyTorch.

    KERAS_BACKEND=jax python -m benchmarks.gpu_step --task train

Our PreActResNet50 has the topology of timm's net, and our ResNet50V2 that of keras.applications.
Convolutions are computed in bfloat16, weights are kept in float32. The images stay on the GPU, so
no input pipeline is measured, and a turn of training waits only for its last step. Each net has a
process of its own, and they are measured in turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, table
from benchmarks.workers import Measured, Step, in_a_new_process, measure_in_turn
from training.cores import usable_cores

TASKS = ("train", "infer")
PEER = "timm resnetv2_50, torch.compile"
CLASSES = 1000


def _batch(batch_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, size, size, 3)).astype("float32")
    return images, rng.integers(0, CLASSES, batch_size)


def prepare_keras(net: str, task: str, batch_size: int, size: int, steps: int) -> Step:
    """Compile several steps of a net of ours or of `keras.applications` with XLA."""
    # Several processes share the GPU.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax
    import keras

    import keras_preact
    from keras_preact.transforms import fold
    from training.engines.callbacks.steps import StepCallbacks

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    library, name = net.rsplit(".", 1)
    builder = getattr(keras_preact if library == "keras_preact" else keras.applications, name)
    model = builder(weights=None, input_shape=(size, size, 3))
    images, labels = _batch(batch_size, size)
    images = jax.device_put(images)
    if task == "infer":
        served = fold(model) if library == "keras_preact" else model
        return lambda: [served.predict_on_batch(images) for _ in range(steps)]
    targets = jax.device_put(np.eye(CLASSES, dtype="float32")[labels])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    batches = (batch for batch in itertools.repeat((images, targets)))
    # Keras's own list reads the loss after every step, which waits for the step to end.
    quiet = StepCallbacks([], model, steps=steps, epochs=1)
    return lambda: model.fit(
        batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=quiet
    )


def prepare_torch(compiled: bool, task: str, batch_size: int, size: int, steps: int) -> Step:
    """Prepare several steps of timm's net, channels last, under autocast, eager or compiled."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    net: Any = timm.create_model("resnetv2_50", pretrained=False, num_classes=CLASSES)
    net = net.to("cuda", memory_format=torch.channels_last)
    images, labels = _batch(batch_size, size)
    x = torch.from_numpy(images).to("cuda").permute(0, 3, 1, 2)
    y = torch.from_numpy(labels).to("cuda")
    forward = torch.compile(net) if compiled else net

    def infer() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for _ in range(steps):
                forward(x).float().cpu().numpy()

    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def train() -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(forward(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    if task == "infer":
        net.eval()
    return train if task == "train" else infer


def candidates(options: argparse.Namespace) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return the candidates by name."""
    arguments = (options.task, options.batch_size, options.size, options.steps)
    return {
        PEER: (prepare_torch, (True, *arguments)),
        "timm resnetv2_50, eager": (prepare_torch, (False, *arguments)),
        **{
            f"{net}, JAX": (prepare_keras, (net, *arguments))
            for net in (
                "keras_preact.PreActResNet50",
                "keras_preact.ResNet50V2",
                "keras.applications.ResNet50V2",
            )
        },
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--steps", type=at_least(1), default=10, help="steps a round")
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    kind = {"train": "Training step", "infer": "Inference"}[options.task]
    size = options.size
    title = f"{kind} on a GPU, batch {options.batch_size} at {size}x{size}, bfloat16"
    packages = ("keras", "jax", "torch", "timm")
    report = Report(title, command_line("benchmarks.gpu_step"), packages, options.output)
    device = f"one {in_a_new_process(_gpu_name)}, {usable_cores()} processor cores"
    results = measure_in_turn(candidates(options), options.rounds, steps=1)
    images = options.batch_size * options.steps
    rows = [_row(name, each, results[PEER], images) for name, each in results.items()]
    header = ("net", "images/s", "ratio", "peak GPU memory, GB", "ratio", "first turn, s")
    note = (
        f"Images/s of the fastest round. Ratios are to {PEER}. The first turn includes imports, "
        "building and compiling."
    )
    report.write(f"{table(header, rows)}\n\n{note}", device)


def _gpu_name() -> str:
    """Return the name of the GPU, of which a process that asks for it takes memory."""
    import torch

    return torch.cuda.get_device_name()


def _row(name: str, measured: Measured, peer: Measured, images: int) -> tuple[str, ...]:
    return (
        name,
        f"{images / measured.best_s:.0f}",
        f"{peer.best_s / measured.best_s:.2f}",
        f"{measured.peak_bytes / 1e9:.2f}",
        f"{measured.peak_bytes / peer.peak_bytes:.2f}",
        f"{measured.first_step_s:.1f}",
    )


if __name__ == "__main__":
    main()
