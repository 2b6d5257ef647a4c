"""Export a trained model as the next version of a served model.

Example: `python -m savedmodels.export --model runs/digits --output savedmodels --name digits`
writes `savedmodels/digits/1/`, then `savedmodels/digits/2/`, and so on: the layout that TF Serving
reads. A version appears complete or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_preact.files import read_text, written_whole
from keras_preact.messages import without_operations
from keras_preact.serving.card import add_memory
from keras_preact.serving.export import DTYPES, THRESHOLD, export_savedmodel
from keras_preact.serving.heads import heads_of
from savedmodels.c_api import ServedModel
from savedmodels.formats import check_scores, export_format
from savedmodels.memory import measured_memory
from savedmodels.runtimes import FORMATS, Predict
from savedmodels.versions import versions
from training.trained import Trained, add_trained_arguments, load_trained

# Difference of a probability that 16 bits and another order of sums allow.
_TOLERANCE = 0.05
# Entries of a run's record that say how the model was trained.
_TRAINING = ("recipe_name", "recipe", "source", "git_revision", "versions")
_SAVEDMODEL_OPTIONS = (
    "uint8",
    "any_size",
    "top_k",
    "threshold",
    "max_pixels",
    "winograd",
    "dtype",
    "xla",
    "freeze",
    "warm_up",
    "licence",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error.
    """
    options = _parser().parse_args(argv)
    try:
        path = _export(options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"savedmodels.export: {error}", file=sys.stderr)
        return 2
    except tf.errors.OpError as error:
        # A full disk, for instance.
        print(f"savedmodels.export: {without_operations(error.message)}", file=sys.stderr)
        return 2
    print(f"SavedModel: {path}")
    return 0


def _export(options: argparse.Namespace) -> Path:
    if options.format != "savedmodel" and (given := _given(options)):
        raise ValueError(f"--format {options.format} does not go with {', '.join(given)}")
    names = read_text(options.labels).splitlines() if options.labels else None
    trained = load_trained(options)
    class_names = trained.record.get("class_names") if names is None else names
    name = options.name or trained.model.name
    # A server takes every version below NAME/ for a SavedModel.
    suffix = "" if options.format == "savedmodel" else f"-{options.format}"
    folder = options.output / f"{name}{suffix}"
    path = folder / str(options.version or max(versions(folder), default=0) + 1)
    shared = {
        "preprocessing": trained.preprocessing,
        "class_names": class_names,
        "fold": not options.no_fold,
    }
    if options.format != "savedmodel":
        return export_format(trained.model, path, options.format, **shared)
    if path.exists():
        raise FileExistsError(f"the version must not exist yet. Received: {path}")
    with written_whole(path) as unchecked:
        export_savedmodel(
            trained.model,
            unchecked,
            **shared,
            image_dtype="uint8" if options.uint8 else "float32",
            any_size=options.any_size,
            top_k=options.top_k,
            threshold=options.threshold,
            max_pixels=options.max_pixels,
            winograd=options.winograd,
            dtype=options.dtype,
            jit_compile=options.xla,
            freeze=options.freeze,
            warm_up_batch_sizes=options.warm_up,
            about=_about(trained, options.licence),
        )
        _check_served(unchecked, trained, class_names, options)
    return path


def _check_served(
    folder: Path, trained: Trained, class_names: list[str] | None, options: argparse.Namespace
) -> None:
    """Load a SavedModel as TensorFlow Serving does, and raise unless it answers as the net."""
    preprocessing = trained.preprocessing
    shape = (1, preprocessing.input_size, preprocessing.input_size, preprocessing.channels)
    image = np.random.default_rng(0).integers(0, 256, shape)
    image = image.astype("uint8" if options.uint8 else "float32")
    outputs = trained.model(preprocessing.normalize(image), training=False)
    heads = heads_of(trained.model, preprocessing, class_names)
    with contextlib.ExitStack() as stack:
        served = functools.cache(lambda: stack.enter_context(ServedModel(folder)))

        def load(name: str) -> Predict:
            # The other signature of images may crop them.
            return lambda batch: served().run({"images": batch}, "single_pass")[name]

        for head, output in zip(heads, keras.tree.flatten(outputs), strict=True):
            expected = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))
            opened = functools.partial(load, head.name)
            check_scores("SavedModel", opened, image, expected, _TOLERANCE)
    if options.warm_up:
        add_memory(folder, measured_memory(folder))


def _given(options: argparse.Namespace) -> list[str]:
    """List the SavedModel options that differ from their defaults."""
    defaults = _parser().parse_args(["--model", "", "--output", ""])
    return [
        f"--{name.replace('_', '-')}"
        for name in _SAVEDMODEL_OPTIONS
        if getattr(options, name) != getattr(defaults, name)
    ]


def _about(trained: Trained, licence: str | None) -> dict[str, Any]:
    """Collect facts about the model for its card, from the run's record and the command line."""
    record = trained.record
    training = {key: record[key] for key in _TRAINING if key in record}
    return {
        "training": training or None,
        "metrics": trained.metrics,
        "licence": licence,
        "source": {
            "file": trained.file.name,
            "sha256": hashlib.sha256(trained.file.read_bytes()).hexdigest(),
        },
    }


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more. Received: '{number}'")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.export",
        description="Write a trained model as DIR/NAME/VERSION/, a SavedModel with the signatures "
        "serving_default and single_pass (images), serving_bytes, classify and features (encoded "
        "images).",
        allow_abbrev=False,
    )
    add_trained_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the served models"
    )
    parser.add_argument("--name", help="name of the served model (default: the model's own)")
    parser.add_argument(
        "--version",
        type=_positive,
        metavar="N",
        help="version to write, which must not exist (default: one above the highest)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="text file, one class name per line, in order (default: the run's, else the indices)",
    )
    parser.add_argument(
        "--format",
        choices=("savedmodel", *FORMATS),
        default="savedmodel",
        help="what to write (default: savedmodel); others go to DIR/NAME-FORMAT/VERSION/",
    )
    parser.add_argument(
        "--no-fold", action="store_true", help="keep the norms, and all else, as in training"
    )
    group = parser.add_argument_group("SavedModel")
    group.add_argument(
        "--uint8", action="store_true", help="signatures of images take uint8, not float32"
    )
    group.add_argument(
        "--any-size",
        action="store_true",
        help="serving_default takes images of any size; those of different sizes need a server "
        "without --enable_batching",
    )
    group.add_argument(
        "--top-k",
        type=_positive,
        metavar="N",
        help="most classes of classify (default: 5; of several labels all)",
    )
    group.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="X",
        help="probability above which classify gives a label, of several labels "
        f"(default: {THRESHOLD})",
    )
    group.add_argument(
        "--max-pixels",
        type=_positive,
        default=2**26,
        metavar="N",
        help=f"pixels of the largest image that is decoded (default: {2**26})",
    )
    group.add_argument(
        "--winograd",
        action="store_true",
        help="3x3 convolutions by Winograd's algorithm: faster on a CPU in float32",
    )
    group.add_argument(
        "--dtype",
        choices=[dtype for dtype in DTYPES if dtype],
        help="what the net computes in (default: as in training)",
    )
    group.add_argument("--xla", action="store_true", help="compile the net with XLA")
    group.add_argument(
        "--freeze",
        action=argparse.BooleanOptionalAction,
        help="weights as constants, which takes several times the memory, rather than variables "
        "(default: only in 16 bits, where it is faster)",
    )
    group.add_argument(
        "--warm-up",
        type=_positive,
        nargs="*",
        default=[1],
        metavar="N",
        help="batch sizes of the warm-up requests (default: 1)",
    )
    group.add_argument("--licence", help="license of the weights, for the model card")
    return parser


if __name__ == "__main__":
    sys.exit(main())
