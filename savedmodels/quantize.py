"""An exported ONNX model in 8-bit integers, by ONNX Runtime's own quantization.

Example: `python -m savedmodels.quantize savedmodels/digits-onnx/1 runs/digits/samples/*.png`

Weights and activations become int8, from statistics that the given images supply, and the last
layer stays as it is. The loss is measured on `--check` images: how often the best class stays,
and the accuracy of both, where the images lie in folders named after their classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_preact.files import read_json, replacing
from keras_preact.output_kinds import CLASSES, LABELS, VALUES
from keras_preact.preprocessing import Preprocessing, decode_image
from keras_preact.serving.export import THRESHOLD
from keras_preact.serving.heads import fits
from savedmodels.runtimes import FORMATS

FILE = "model.int8.onnx"
BATCH = 16


def quantize(file: Path, output: Path, batches: Sequence[np.ndarray]) -> None:
    """Write a model in 8-bit integers.

    Args:
        file: A model that `savedmodels.formats` wrote as ONNX.
        output: File to write, whole or not at all.
        batches: Images as the model takes them, a hundred or more in all.

    Raises:
        ImportError: If ONNX Runtime is not installed.
        OSError: If a file cannot be read or written.
        RuntimeError: If it cannot open the file, or gives other numbers than a net of its kind.
    """
    kind = _kind(file.parent)
    with replacing(output) as unchecked:
        try:
            _write(file, unchecked, batches)
            scores = FORMATS["onnx"].load(unchecked)(batches[0][:1])
        except (ImportError, OSError):
            raise
        # ONNX, its runtime and what parses their files have errors of their own.
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime cannot quantize {file}: {error}") from error
        if not fits(kind, scores):
            raise RuntimeError(
                f"The model in 8 bits gives no {'numbers' if kind == VALUES else 'scores'} of its "
                f"kind ({kind}): {scores.min():.3g} to {scores.max():.3g}, which sum to "
                f"{scores.sum():.3g}"
            )


def _write(file: Path, output: Path, batches: Sequence[np.ndarray]) -> None:
    """Quantize a model by ONNX Runtime; see `quantize`."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    prepared = output.with_name(output.name + ".partial")
    try:
        quant_pre_process(str(file), str(prepared))
        quantize_static(
            str(prepared),
            str(output),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Without 8-bit dot products, sums of two products overflow 16 bits.
            reduce_range=True,
            op_types_to_quantize=["Conv", "Add", "MaxPool"],
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        prepared.unlink(missing_ok=True)


def _card(folder: Path) -> dict[str, Any]:
    return read_json(folder / "model.json")


def _kind(folder: Path) -> str:
    """Return what the numbers of a model say; see `keras_preact.output_kinds`."""
    # Those of before had no other kind.
    outputs = _card(folder).get("outputs", {"": {"kind": CLASSES}})
    ((_, output),) = outputs.items()
    return output["kind"]


def read_images(files: Sequence[Path], preprocessing: Preprocessing) -> list[np.ndarray]:
    """Read image files in batches, as an exported model takes them.

    Args:
        files: The files. One that cannot be read is named on standard error, and left out.
        preprocessing: The model's.

    Returns:
        The batches, float32.

    Raises:
        ValueError: If none can be read.
    """
    return _batches([image for _, image in _read(files, preprocessing)])


def _read(files: Sequence[Path], preprocessing: Preprocessing) -> list[tuple[Path, np.ndarray]]:
    """Return the files that can be read, each with its image."""
    images = []
    for file in files:
        try:
            image = decode_image(file.read_bytes(), preprocessing.channels)
        except OSError as error:
            print(f"savedmodels.quantize: {file} is left out: {error.strerror}", file=sys.stderr)
        except tf.errors.InvalidArgumentError:
            reason = "no image, or a damaged one"
            print(f"savedmodels.quantize: {file} is left out: {reason}", file=sys.stderr)
        else:
            images.append((file, preprocessing.resize_and_crop(image)))
    if not images:
        raise ValueError(f"none of the {len(files)} images can be read")
    return images


def _batches(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.stack(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]


def compare(file: Path, quantized: Path, images: Sequence[Path]) -> str:
    """Describe in a sentence how far the models agree on image files.

    Args:
        file: The model in float32, with `labels.txt` and `model.json` beside it.
        quantized: The model in 8-bit integers.
        images: The files. Where all lie in folders named after classes, the accuracy of both
            models is told too.

    Returns:
        The sentence.
    """
    card, kind = _card(file.parent), _kind(file.parent)
    read = _read(images, Preprocessing(**card["preprocessing"]))
    batches = _batches([image for _, image in read])
    load = FORMATS["onnx"].load
    before, after = (
        np.concatenate([predict(batch) for batch in batches])
        for predict in (load(file), load(quantized))
    )
    text = f"{len(before)} images: {_agreement(kind, before, after)}"
    if kind in (LABELS, VALUES):
        return text
    names = (file.parent / "labels.txt").read_text(encoding="utf-8").splitlines()
    classes = [file.parent.name for file, _ in read]
    if not {*classes} <= {*names}:
        return text
    truth = np.array([names.index(name) for name in classes])
    accuracies = [np.mean(each.argmax(1) == truth) for each in (before, after)]
    return f"{text}, accuracy {accuracies[0]:.2%} in float32 and {accuracies[1]:.2%} in int8"


def _agreement(kind: str, before: np.ndarray, after: np.ndarray) -> str:
    """Say how far the numbers of two models `(images, …)` agree."""
    if kind == VALUES:
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosines = np.sum(before * after, axis=1) / np.maximum(norms, 1e-30)
        return f"cosine similarity {cosines.mean():.4f} on average, {cosines.min():.4f} at least"
    if kind == LABELS:
        same = np.all((before > THRESHOLD) == (after > THRESHOLD), axis=1)
        text = f"the same labels above {THRESHOLD} in {np.mean(same):.2%}"
    else:
        text = f"the same best class in {np.mean(before.argmax(1) == after.argmax(1)):.2%}"
    numbers = "probabilities" if kind in (CLASSES, LABELS) else "logits"
    return f"{text}, {numbers} within {np.abs(before - after).max():.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.quantize",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="NAME-onnx/VERSION/")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="images to take statistics from"
    )
    parser.add_argument(
        "--check", type=Path, nargs="+", metavar="IMAGE", default=[], help="images to compare on"
    )
    options = parser.parse_args(argv)
    file = options.model / FORMATS["onnx"].file
    output = options.model / FILE
    try:
        preprocessing = Preprocessing(**_card(options.model)["preprocessing"])
        quantize(file, output, read_images(options.images, preprocessing))
        print(f"int8: {output}, {output.stat().st_size / file.stat().st_size:.2f} of the size")
        if options.check:
            print(compare(file, output, options.check))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"savedmodels.quantize: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
