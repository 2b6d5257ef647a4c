"""Where the time of an exported 50-layer net goes: oneDNN's kernels in TensorFlow, and OpenVINO's.

    python -m benchmarks.profile_inference --dtype bfloat16

At batch 1, where kernels run one after another.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.command import at_least, command_line
from benchmarks.inference import (
    DTYPES,
    OPENVINO_PRECISIONS,
    OURS,
    images_of,
    prepare_openvino,
    prepare_savedmodel,
    quiet_tensorflow,
    trained,
)
from benchmarks.report import Report, table
from benchmarks.workers import measure_in_turn

SIZE = 224
WARM_UP = 5
# Names of what both call by other names.
KINDS = {
    "convolution": "convolutions",
    "Convolution": "convolutions",
    "batch_normalization": "scales and shifts",
    "MulAdd": "scales and shifts",
}
MARK = "profiled from here"


def export(folder: Path, dtype: str) -> None:
    """Write the net as a SavedModel and for OpenVINO."""
    import keras_preact
    from keras_preact.preprocessing import Preprocessing
    from savedmodels.formats import export_format

    preprocessing = Preprocessing(input_size=SIZE)
    model = trained(keras_preact.BUILDERS[OURS](weights=None, input_shape=(SIZE, SIZE, 3)))
    keras_preact.export_savedmodel(
        model,
        folder / "savedmodel",
        preprocessing=preprocessing,
        dtype=None if dtype == "float32" else dtype,
    )
    export_format(model, folder / "openvino", "openvino", preprocessing=preprocessing)


def run_savedmodel(folder: Path, steps: int) -> None:
    """Run it, and print a mark where what oneDNN prints of the steps begins."""
    step = prepare_savedmodel(folder, 1, SIZE)
    for _ in range(WARM_UP):
        step()
    print(MARK, flush=True)
    for _ in range(steps):
        step()


def profile_savedmodel(folder: Path, steps: int) -> defaultdict[str, float]:
    """Return milliseconds per step in each kind of oneDNN kernel."""
    command = [sys.executable, "-m", "benchmarks.profile_inference", "--run", str(folder)]
    printed = subprocess.run(
        [*command, "--steps", str(steps)],
        env={**os.environ, "ONEDNN_VERBOSE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    milliseconds: defaultdict[str, float] = defaultdict(float)
    for line in printed.split(MARK)[1].splitlines():
        # onednn_verbose,v1,primitive,exec,cpu,convolution,…,0.123
        fields = line.split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            kind = fields[fields.index("exec") + 2]
            milliseconds[KINDS.get(kind, "others")] += float(fields[-1]) / steps
    return milliseconds


def profile_openvino(file: Path, dtype: str, steps: int) -> defaultdict[str, float]:
    """Return milliseconds per step in each kind of OpenVINO node."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[dtype], "PERF_COUNT": "YES"}
    request = openvino.compile_model(str(file), "CPU", settings).create_infer_request()
    images = images_of(1, SIZE)
    for _ in range(WARM_UP):
        request.infer([images])
    milliseconds: defaultdict[str, float] = defaultdict(float)
    for _ in range(steps):
        request.infer([images])
        for node in request.profiling_info:
            kind = KINDS.get(node.node_type, "others")
            milliseconds[kind] += node.real_time.total_seconds() * 1e3 / steps
    return milliseconds


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rounds", type=at_least(1), default=6)
    parser.add_argument("--steps", type=at_least(1), default=20, help="images a round")
    parser.add_argument("--output", type=Path, help="also write the result here")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_tensorflow()
    if options.run:
        run_savedmodel(options.run, options.steps)
        return
    report = Report(
        f"{OURS}, folded, at batch 1 by kernel, {options.dtype}",
        command_line("benchmarks.profile_inference"),
        ("keras", "tensorflow", "openvino"),
        options.output,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder, options.dtype)
        savedmodel, openvino = folder / "savedmodel", folder / "openvino" / "model.xml"
        profiles = {
            "TensorFlow": profile_savedmodel(savedmodel, options.steps),
            "OpenVINO": profile_openvino(openvino, options.dtype, options.steps),
        }
        whole = measure_in_turn(
            {
                "TensorFlow": (prepare_savedmodel, (savedmodel, 1, SIZE)),
                "OpenVINO": (prepare_openvino, (openvino, 1, SIZE, options.dtype)),
            },
            options.rounds,
            options.steps,
        )
    columns = ("convolutions", "scales and shifts", "others")
    rows = [
        (
            runtime,
            *(f"{milliseconds[column]:.1f}" for column in columns),
            f"{whole[runtime].best_s * 1e3:.1f}",
            f"{min(whole[runtime].cpu_s) * 1e3:.1f}",
        )
        for runtime, milliseconds in profiles.items()
    ]
    header = ("runtime", *(f"{each}, ms" for each in columns), "an image, ms", "processor, ms")
    report.write(f"{table(header, rows)}\n\n{FOOTNOTE}")


FOOTNOTE = (
    "Kernels were timed by oneDNN and by OpenVINO, with all threads, in runs of their own; a whole "
    "image, fastest round, and its processor time without that."
)


if __name__ == "__main__":
    main()
