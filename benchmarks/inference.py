"""Inference images/s of our 50-layer nets, exported and folded, against their peers, on a CPU.

    python -m benchmarks.inference

Each candidate runs in a process of its own, in turn. SavedModels are run by TensorFlow's C API, as
TensorFlow Serving runs them; ours also normalizes the pixels.

    python -m benchmarks.inference --choices --batch-sizes 1 16 --save

runs PreActResNet50 with every choice of `keras_preact.ops.choices` made, and with each switched off
in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.choices import ALL, candidate, table_of_choices
from benchmarks.command import at_least, command_line
from benchmarks.report import Report, processor_folder, table
from benchmarks.train_step import multiply_adds
from benchmarks.workers import Candidate, Measured, Step, measure_in_turn
from savedmodels.runtimes import FORMATS, load_openvino

PEER = "keras.applications.ResNet50V2, model.export"
PEER_16_BITS = f"{PEER}, bfloat16"
OURS = "PreActResNet50"
DTYPES = ("float32", "bfloat16")
OPENVINO_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def quiet_tensorflow(onednn: bool = True) -> None:
    """Have TensorFlow use oneDNN or not, and print little. Call it before TensorFlow's import."""
    # Off by default on processors without AVX-512.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1" if onednn else "0"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def images_of(batch_size: int, size: int) -> np.ndarray:
    """Make a batch of noise, float32, pixels in 0..255."""
    images = np.random.default_rng(0).uniform(0, 255, (batch_size, size, size, 3))
    return images.astype("float32")


def trained(model: Any) -> Any:
    """Give a model biases and statistics of the size of a trained net's.

    TensorFlow leaves out additions of constants that are zero, as a new net's are.
    """
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0.0, 0.1, variable.shape))
    return model


def export_all(folder: Path, size: int, dtype: str) -> None:
    """Write what the candidates load. It runs in a process of its own."""
    quiet_tensorflow()
    import keras

    import keras_preact
    from keras_preact.preprocessing import Preprocessing
    from savedmodels.formats import export_format

    keras.utils.set_random_seed(0)
    shape = (size, size, 3)
    for each in dict.fromkeys(("float32", dtype)):
        keras.config.set_dtype_policy(each if each == "float32" else f"mixed_{each}")
        peer = trained(keras.applications.ResNet50V2(weights=None, input_shape=shape))
        peer.export(str(folder / f"peer-{each}"), verbose=False)
    keras.config.set_dtype_policy("float32")
    preprocessing = Preprocessing(input_size=size)
    for net, exports in _exports(dtype).items():
        model = trained(keras_preact.BUILDERS[net](weights=None, input_shape=shape))
        for name, export_options in exports.items():
            keras_preact.export_savedmodel(
                model,
                folder / f"{net}, {name}",
                preprocessing=preprocessing,
                dtype=None if dtype == "float32" else dtype,
                **export_options,
            )
    for name in FORMATS if dtype == "float32" else ("openvino",):
        export_format(model, folder / f"format-{name}", name, preprocessing=preprocessing)


# Choices that an export makes, by dtype. TensorFlow without oneDNN takes minutes in bfloat16.
EXPORTED = {
    "float32": ("streams", "fused_norm", "no_xla", "onednn"),
    "bfloat16": ("streams", "fused_norm"),
}


def export_choices(folder: Path, size: int, dtype: str) -> None:
    """Write an export with every choice made, and with each switched off where it is written."""
    quiet_tensorflow()
    import keras

    import keras_preact
    from keras_preact.ops.choices import SWITCHED_HERE, without
    from keras_preact.preprocessing import Preprocessing

    keras.utils.set_random_seed(0)
    model = trained(keras_preact.BUILDERS[OURS](weights=None, input_shape=(size, size, 3)))
    for name in ("", *EXPORTED[dtype]):
        if name == "onednn":
            continue
        with without(*[name] if name in SWITCHED_HERE else []):
            keras_preact.export_savedmodel(
                model,
                folder / (candidate(name) if name else ALL),
                preprocessing=Preprocessing(input_size=size),
                dtype=None if dtype == "float32" else dtype,
                jit_compile=name == "no_xla",
                warm_up_batch_sizes=(),
            )


# Our exports: the peer's own net, then what each part of the optimization is worth. The last net
# stays, to be written in the other formats.
_EXPORTS: dict[str, dict[str, dict[str, Any]]] = {
    "ResNet50V2": {
        "folded": {"freeze": False},
        "folded, frozen": {"freeze": True},
        "folded, Winograd": {"freeze": False, "winograd": True},
        "folded, frozen, Winograd": {"freeze": True, "winograd": True},
    },
    OURS: {
        "folded": {"freeze": False},
        "folded, frozen": {"freeze": True},
        "folded, Winograd": {"freeze": False, "winograd": True},
        "folded, frozen, Winograd": {"freeze": True, "winograd": True},
        "as in training": {"fold": False, "freeze": False},
        "folded, XLA": {"jit_compile": True},
    },
}


def _exports(dtype: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the `_EXPORTS` that exist in a dtype: Winograd's algorithm is only for float32."""
    return {
        net: {
            name: options
            for name, options in exports.items()
            if dtype == "float32" or not options.get("winograd")
        }
        for net, exports in _EXPORTS.items()
    }


def prepare_savedmodel(folder: Path, batch_size: int, size: int, onednn: bool = True) -> Step:
    """Load a SavedModel; the step runs its `serving_default`."""
    quiet_tensorflow(onednn)
    from savedmodels.c_api import ServedModel

    model = ServedModel(folder)
    (name,) = model.signatures["serving_default"].inputs
    images = images_of(batch_size, size)
    return lambda: model.run({name: images})


def prepare_format(file: Path, name: str, batch_size: int, size: int) -> Step:
    """Prepare our net in the runtime of another format."""
    predict = FORMATS[name].load(file)
    images = images_of(batch_size, size)
    return lambda: predict(images)


def prepare_openvino(file: Path, batch_size: int, size: int, dtype: str) -> Step:
    """Prepare our net in OpenVINO, which takes the float32 model and computes in `dtype`."""
    predict = load_openvino(file, OPENVINO_PRECISIONS[dtype])
    images = images_of(batch_size, size)
    return lambda: predict(images)


def prepare_torch(batch_size: int, size: int, dtype: str, compiled: bool) -> Step:
    """Prepare timm's net, which has the same topology, in PyTorch."""
    import timm
    import torch

    model = timm.create_model("resnetv2_50", pretrained=False).eval()
    # PyTorch's annotations lack the memory format.
    model = model.to(memory_format=torch.channels_last, dtype=getattr(torch, dtype))  # pyright: ignore[reportCallIssue]
    images = torch.from_numpy(images_of(batch_size, size)).permute(0, 3, 1, 2)
    images = images.to(memory_format=torch.channels_last, dtype=getattr(torch, dtype))
    if compiled:
        from torch._inductor import config

        config.freezing = True
        model = torch.compile(model)

    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def _candidates(folder: Path, batch_size: int, options: argparse.Namespace) -> dict[str, Candidate]:
    size, dtype = options.size, options.dtype
    shape = (batch_size, size)
    found: dict[str, Candidate] = {PEER: (prepare_savedmodel, (folder / "peer-float32", *shape))}
    if dtype != "float32":
        found[PEER_16_BITS] = (prepare_savedmodel, (folder / f"peer-{dtype}", *shape))
    for net, exports in _exports(dtype).items():
        for name in exports:
            found[f"{net}, {name}"] = (prepare_savedmodel, (folder / f"{net}, {name}", *shape))
    found["timm resnetv2_50, PyTorch"] = (prepare_torch, (*shape, dtype, False))
    if options.torch_compile:
        found["timm resnetv2_50, torch.compile"] = (prepare_torch, (*shape, dtype, True))
    if dtype == "float32":
        for name, title in (
            ("onnx", "ONNX Runtime"),
            ("openvino", "OpenVINO"),
            ("litert", "LiteRT"),
        ):
            file = folder / f"format-{name}" / FORMATS[name].file
            found[f"{OURS}, {title}"] = (prepare_format, (file, name, *shape))
    else:
        file = folder / "format-openvino" / FORMATS["openvino"].file
        found[f"{OURS}, OpenVINO"] = (prepare_openvino, (file, *shape, dtype))
    return {
        name: each
        for name, each in found.items()
        if not options.only or name.endswith((PEER, *options.only))
    }


def compare_choices(options: argparse.Namespace) -> str:
    """Measure an export with every choice made and with each switched off; return the table."""
    results = {}
    with exported(export_choices, options) as folder:
        for batch_size in options.batch_sizes:
            arguments = (batch_size, options.size)
            candidates: dict[str, Candidate] = {
                ALL: (prepare_savedmodel, (folder / ALL, *arguments))
            }
            for name in EXPORTED[options.dtype]:
                off = candidate(name)
                path = folder / (ALL if name == "onednn" else off)
                candidates[off] = (prepare_savedmodel, (path, *arguments, name != "onednn"))
            setting = f"batch {batch_size}"
            results[setting] = measure_in_turn(candidates, options.rounds, max(1, 8 // batch_size))
    from keras_preact.ops.choices import CHOICES

    images = dict(zip(results, options.batch_sizes, strict=True))
    chosen = {name: CHOICES[name].chosen for name in EXPORTED[options.dtype]}
    return table_of_choices(results, images, chosen)


@contextlib.contextmanager
def exported(export: Callable[..., None], options: argparse.Namespace) -> Iterator[Path]:
    """Write exports in a process of its own; yield their folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = multiprocessing.get_context("spawn").Process(
            target=export, args=(folder, options.size, options.dtype)
        )
        process.start()
        process.join()
        if process.exitcode:
            sys.exit("the exports failed")
        yield folder


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_argument("--torch-compile", action="store_true", help="needs a C++ compiler")
    parser.add_argument("--only", nargs="+", help="candidates whose names end in one of these")
    parser.add_argument("--choices", action="store_true", help="each choice made, and switched off")
    parser.add_argument("--output", type=Path, help="also write the result here")
    parser.add_argument("--save", action="store_true", help="write it to the processor's folder")
    options = parser.parse_args()
    if options.save:
        name = "inference_choices" if options.choices else "inference"
        options.output = processor_folder() / f"{name}_{options.dtype}.md"
    command = command_line("benchmarks.inference")
    title = f"Inference on a CPU, {options.size}x{options.size}, {options.dtype}"
    if options.choices:
        packages = ("keras", "tensorflow")
        report = Report(f"{title}, by choice", command, packages, options.output)
        report.write(f"Net: {OURS}.\n\n{compare_choices(options)}")
        return
    packages = ("keras", "tensorflow", "torch", "timm", "onnxruntime", "openvino", "ai-edge-litert")
    Report(title, command, packages, options.output).write(compare_nets(options))


def compare_nets(options: argparse.Namespace) -> str:
    """Measure our nets beside their peers; return the table."""
    rows = []
    with exported(export_all, options) as folder:
        for batch_size in options.batch_sizes:
            results = measure_in_turn(
                _candidates(folder, batch_size, options),
                options.rounds,
                max(1, 8 // batch_size),
            )
            rows += [_row(each, batch_size, results) for each in results]
    header = (
        "net",
        "batch",
        "images/s",
        "ratio",
        "processor s/image",
        "ratio",
        "peak memory, GB",
        "first batch, s",
    )
    counts = {net: multiply_adds(net, options.size) for net in _EXPORTS}
    listed = ", ".join(f"{net} {count / 1e9:.2f}e9" for net, count in counts.items())
    return (
        f"{table(header, rows)}\n\nImages/s of the fastest round of {options.rounds}, taken in "
        f"turn, and its processor seconds on all cores. Ratios are to {PEER}, in float32, at the "
        "same batch size. Our ResNet50V2 is the peer's net, weight for weight. Multiply-adds of "
        f"an image: {listed}."
    )


def _row(name: str, batch_size: int, results: dict[str, Measured]) -> tuple[str, ...]:
    measured = results[name]
    return (
        name,
        str(batch_size),
        f"{batch_size / measured.best_s:.2f}",
        f"{results[PEER].best_s / measured.best_s:.2f}",
        f"{min(measured.cpu_s) / batch_size:.3f}",
        f"{min(results[PEER].cpu_s) / min(measured.cpu_s):.2f}",
        f"{measured.peak_bytes / 1e9:.2f}",
        f"{measured.first_step_s:.1f}",
    )


if __name__ == "__main__":
    main()
