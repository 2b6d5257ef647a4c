"""Memory, load, first answer, throughput and latency of served 50-layer nets, on a CPU.

    python -m benchmarks.serving
    python -m benchmarks.serving --dtype bfloat16

Every candidate has processes of its own, which take turns: each loads the net, answers a first
request, and one of every other signature, then requests of each batch size. SavedModels are run by
TensorFlow's C API, as TensorFlow Serving runs them; ours also normalize the pixels. Memory is what
is resident beyond the process before it loads the net.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import at_least, command_line
from benchmarks.inference import (
    DTYPES,
    OPENVINO_PRECISIONS,
    OURS,
    PEER,
    exported,
    images_of,
    quiet_tensorflow,
    trained,
)
from benchmarks.report import Report, processor_folder, table
from benchmarks.workers import in_a_new_process
from savedmodels.runtimes import FORMATS, load_openvino
from training.process_memory import RESIDENT, process_bytes

# Runs a signature on a batch of some size.
Request = Callable[[str, int], Any]
DEFAULT = "serving_default"
FROZEN = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
# Height and width of the JPEG files that are sent.
_FILE_SIZE = 300


@dataclass(frozen=True)
class Served:
    """Way to serve a net.

    Attributes:
        folder: Name of the export.
        runtime: `tensorflow`, `openvino` or `onnx`.
        environment: Environment variables of the process.
        folding: Whether TensorFlow folds constants.
        sessions: Whether each signature has a session of its own.
        threads: Threads of an operation; 0 for one per core.
        precision: What OpenVINO computes in.
    """

    folder: str
    runtime: str = "tensorflow"
    environment: Mapping[str, str] = field(default_factory=dict)
    folding: bool = True
    sessions: bool = False
    threads: int = 0
    precision: str = "float32"


def candidates(dtype: str) -> dict[str, Served]:
    """Return the ways to serve that are compared, by name; the runtimes only where installed."""
    found = {
        PEER: Served("peer"),
        "ResNet50V2": Served("ResNet50V2"),
        OURS: Served("default"),
        f"{OURS}, variables": Served("variables"),
        f"{OURS}, variables, frozen by the server": Served("variables", environment=FROZEN),
        f"{OURS}, variables, one thread per operation": Served("variables", threads=1),
        f"{OURS}, variables, one part of a batch at a time": Served("one part"),
        f"{OURS}, constants": Served("constants"),
        f"{OURS}, constants, no constant folding": Served("constants", folding=False),
        f"{OURS}, constants, a session per signature": Served("constants", sessions=True),
        f"{OURS}, constants, of the main graph": Served("main graph"),
        f"{OURS}, OpenVINO": Served("openvino", "openvino", precision=dtype),
    }
    if dtype == "float32":
        # The default is of variables.
        del found[f"{OURS}, variables"]
        found[f"{OURS}, ONNX Runtime"] = Served("onnx", "onnx")
    packages = {"openvino": "openvino", "onnx": "onnxruntime"}
    for name, served in [*found.items()]:
        package = packages.get(served.runtime)
        if package and not find_spec(package):
            print(f"{name} is left out: {package} is not installed", flush=True)
            del found[name]
    return found


def export_all(folder: Path, size: int, dtype: str) -> None:
    """Write what the candidates load. It runs in a process of its own."""
    quiet_tensorflow()
    import keras

    import keras_preact
    from keras_preact.ops.choices import without
    from keras_preact.preprocessing import Preprocessing
    from savedmodels.formats import export_format

    keras.utils.set_random_seed(0)
    shape, preprocessing = (size, size, 3), Preprocessing(input_size=size)
    peer = trained(keras.applications.ResNet50V2(weights=None, input_shape=shape))
    peer.export(str(folder / "peer"), verbose=False)

    def write_net(model: keras.Model, name: str, freeze: bool | None = None) -> None:
        keras_preact.export_savedmodel(
            model, folder / name, preprocessing=preprocessing, dtype=dtype, freeze=freeze
        )

    write_net(trained(keras_preact.ResNet50V2(weights=None, input_shape=shape)), "ResNet50V2")
    model = trained(keras_preact.BUILDERS[OURS](weights=None, input_shape=shape))
    write_net(model, "default")
    write_net(model, "variables", freeze=False)
    write_net(model, "constants", freeze=True)
    with without("streams"):
        write_net(model, "one part", freeze=False)
    _write_main_graph(folder / "constants", folder / "main graph")
    for name in ("openvino", "onnx") if dtype == "float32" else ("openvino",):
        with contextlib.suppress(ImportError):
            export_format(model, folder / name, name, preprocessing=preprocessing)


def _write_main_graph(source: Path, target: Path) -> None:
    """Write a signature whose constants are in the graph itself, not in one of its functions."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(source))
    inlined = convert_variables_to_constants_v2(loaded.signatures["single_pass"])
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        tf.import_graph_def(inlined.graph.as_graph_def(), name="")
        names = [each.name for each in (*inlined.inputs, *inlined.outputs)]
        images, probabilities = map(session.graph.get_tensor_by_name, names)
        signature = v1.saved_model.predict_signature_def(
            {"images": images}, {"probabilities": probabilities}
        )
        builder = v1.saved_model.Builder(str(target))
        builder.add_meta_graph_and_variables(session, ["serve"], {DEFAULT: signature})
        builder.save()


def _load_savedmodel(folder: Path, served: Served, size: int) -> tuple[Request, list[str]]:
    """Load a SavedModel; return how to run a signature, and the signatures."""
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

    from savedmodels.c_api import ServedModel

    config = ConfigProto(intra_op_parallelism_threads=served.threads)
    if not served.folding:
        config.graph_options.rewrite_options.constant_folding = RewriterConfig.OFF
    first = ServedModel(folder, config)
    # The peer's exporter names its one signature twice.
    names = sorted({*first.signatures} - {"serve"}, key=lambda name: name != DEFAULT)
    sessions = defaultdict(lambda: first)
    if served.sessions:
        sessions |= {name: ServedModel(folder, config) for name in names[1:]}
    file, images = _jpeg(), functools.cache(images_of)

    def request(signature: str, batch_size: int) -> Any:
        (name,) = first.signatures[signature].inputs
        files = name == "image_bytes"
        batch = [file] * batch_size if files else images(batch_size, size)
        return sessions[signature].run({name: batch}, signature)

    return request, names


def _load_runtime(folder: Path, served: Served, size: int) -> tuple[Request, list[str]]:
    """Load the net in another runtime."""
    file = folder / FORMATS[served.runtime].file
    if served.runtime == "openvino":
        predict = load_openvino(file, OPENVINO_PRECISIONS[served.precision])
    else:
        predict = FORMATS[served.runtime].load(file)
    images = functools.cache(images_of)
    return (lambda _, batch_size: predict(images(batch_size, size))), [DEFAULT]


def _jpeg() -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (_FILE_SIZE, _FILE_SIZE, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _import_runtime(served: Served) -> None:
    """Import all that a process has before it loads a net."""
    os.environ.update(served.environment)
    if served.runtime != "tensorflow":
        __import__({"openvino": "openvino", "onnx": "onnxruntime"}[served.runtime])
        return
    quiet_tensorflow()
    from savedmodels.c_api import load_library

    load_library()


def _measure(folder: Path, served: Served, options: argparse.Namespace) -> dict[str, Any]:
    """Serve a net once, in this process; return the measurements by name."""
    _import_runtime(served)
    found: dict[str, Any] = {}
    empty = process_bytes(RESIDENT)

    def note(stage: str, start: float) -> None:
        found[f"{stage}, s"] = time.perf_counter() - start
        found[f"{stage}, GB"] = (process_bytes(RESIDENT) - empty) / 1e9

    start = time.perf_counter()
    load = _load_savedmodel if served.runtime == "tensorflow" else _load_runtime
    request, signatures = load(folder / served.folder, served, options.size)
    note("load", start)
    for name, stage in ((DEFAULT, "first"), *((name, "all") for name in signatures[1:])):
        start = time.perf_counter()
        request(name, 1)
        note(stage, start)
    found.setdefault("all, GB", found["first, GB"])
    for batch_size in options.batch_sizes:
        request(DEFAULT, batch_size)
        start, latencies = time.perf_counter(), []
        processor = time.process_time()
        while len(latencies) < options.requests and sum(latencies) < options.seconds:
            before = time.perf_counter()
            request(DEFAULT, batch_size)
            latencies.append(time.perf_counter() - before)
        images = batch_size * len(latencies)
        found[f"{batch_size}, latencies"] = latencies
        found[f"{batch_size}, processor"] = (time.process_time() - processor) / images
        note(f"{batch_size}", start)
    return found


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Measure all candidates in turn, each in a new process; return a list of results for each."""
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for turn in range(options.rounds):
        for name, served in candidates(options.dtype).items():
            if options.only and name != PEER and not name.endswith(tuple(options.only)):
                continue
            results[name].append(in_a_new_process(_measure, folder, served, options))
            print(f"round {turn + 1} of {options.rounds}: {name}", flush=True)
    return results


def _rows(
    results: Mapping[str, list[dict[str, Any]]], batch_sizes: Sequence[int]
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield for each candidate its row of memory and start, and that of speed."""
    for name, rounds in results.items():

        def median(key: str, rounds: list[dict[str, Any]] = rounds) -> float:
            return float(np.median([each[key] for each in rounds]))

        stages = ("load", "first", "all", *map(str, batch_sizes))
        memory = [f"{median(f'{stage}, GB'):.2f}" for stage in stages]
        start = [f"{median(f'{stage}, s'):.2f}" for stage in ("load", "first")]
        speed = []
        for batch_size in batch_sizes:
            latencies = [latency for each in rounds for latency in each[f"{batch_size}, latencies"]]
            p50, p99 = np.percentile(latencies, (50, 99))
            speed += [
                f"{batch_size / p50:.1f}",
                f"{1e3 * p50:.0f}, {1e3 * p99:.0f}",
                f"{1e3 * median(f'{batch_size}, processor'):.0f}",
            ]
        yield [name, *memory, *start], [name, *speed]


def _processes(rounds: int) -> str:
    return f"Medians of {rounds} processes each" if rounds > 1 else "One process each"


def compare(options: argparse.Namespace) -> str:
    """Measure all candidates; return two tables and how to read them."""
    with exported(export_all, options) as folder:
        results = measure(folder, options)
    rows = [*_rows(results, options.batch_sizes)]
    batches = [f"batch {size}" for size in options.batch_sizes]
    memory = table(
        ("net", "loaded, GB", "first", "all", *batches, "load, s", "first, s"),
        [row for row, _ in rows],
    )
    columns = [
        f"{batch}, {what}"
        for batch in batches
        for what in ("images/s", "p50, p99 ms", "processor ms/image")
    ]
    counts = {
        size: min(len(each[f"{size}, latencies"]) for own in results.values() for each in own)
        for size in options.batch_sizes
    }
    requests = ", ".join(f"{count} at batch {size}" for size, count in counts.items())
    return (
        f"{memory}\n\nResident memory beyond the process before: loaded, after a first request of "
        "`serving_default`, after one of every signature, and after requests of each batch size. "
        f"{_processes(options.rounds)}, in turn.\n\n"
        f"{table(('net', *columns), [row for _, row in rows])}\n\n"
        f"Images/s of the median request of `serving_default`; at least {requests} in each process."
    )


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rounds", type=at_least(1), default=5, help="processes of each candidate")
    parser.add_argument(
        "--requests", type=at_least(1), default=1000, help="of each batch size, at most"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each batch size, at most")
    parser.add_argument("--only", nargs="+", help="candidates whose names end in one of these")
    parser.add_argument("--output", type=Path, help="also write the result here")
    parser.add_argument("--save", action="store_true", help="write it to the processor's folder")
    options = parser.parse_args()
    if options.save:
        options.output = processor_folder() / f"serving_{options.dtype}.md"
    title = f"Serving on a CPU, {options.size}x{options.size}, {options.dtype}"
    packages = ["keras", "tensorflow"]
    packages += [each for each in ("onnxruntime", "openvino") if find_spec(each)]
    report = Report(title, command_line("benchmarks.serving"), packages, options.output)
    report.write(compare(options))


if __name__ == "__main__":
    main()
