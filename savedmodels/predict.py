"""Classify image files with an exported SavedModel. It needs only TensorFlow, not Keras.

Example: `python -m savedmodels.predict savedmodels/digits photo.png`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from savedmodels.paths import literal
from savedmodels.versions import add_model_argument, version_folder

SHOWN = 5  # classes per image
CARD = Path("assets.extra") / "model.json"
# Exports of before had no other output.
_ONE_CLASS = {"probabilities": {"kind": "classes"}}
# What a row of an image's predictions calls its number.
_NUMBERS = {"classes": "probability", "labels": "probability", "logits": "logit"}


class Classifier:
    """A SavedModel written by `savedmodels.export`, loaded.

    Args:
        folder: `NAME/VERSION/`, or `NAME/` for its highest version.

    Raises:
        FileNotFoundError: If there is no such SavedModel, or it has no card.
        ValueError: If none of its outputs is of classes, or its files are damaged.

    Attributes:
        class_names: Names of the classes of each output that has some, by the output's name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = version_folder(folder)
        card = _read_card(self.folder / CARD)
        outputs = card.get("outputs", _ONE_CLASS)
        self._outputs = {name: each for name, each in outputs.items() if each["kind"] in _NUMBERS}
        if not self._outputs:
            raise ValueError(
                f"{self.folder} tells no classes apart: its signatures give {', '.join(outputs)}, "
                "for images as `images` (serving_default) or `image_bytes` (serving_bytes)"
            )
        self._single = len(outputs) == 1
        self.class_names = {name: self._labels(name) for name in self._outputs}
        # The signature does not keep the variables of the loaded object alive.
        with literal(self.folder) as path:
            try:
                self._module = tf.saved_model.load(str(path))
            except OSError:
                raise
            # TensorFlow's reader of weights has errors of several kinds for damaged ones.
            except Exception as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(f"{self.folder} is damaged: {reason}") from error

    def classify(self, encoded: bytes) -> Any:
        """Classify an image.

        Args:
            encoded: Content of a JPEG, PNG, GIF, BMP or WebP file.

        Returns:
            `{"class": name, "index": int, "probability": float}` of the most probable classes,
            the most probable first; of several labels those above the threshold of the export; of
            logits `"logit"` in the place of `"probability"`. Where the net has several outputs,
            such a list of each that has classes, by its name.

        Raises:
            ValueError: If the image cannot be decoded.
        """
        answer = self._module.signatures["serving_bytes"](image_bytes=tf.constant([encoded]))
        if error := answer["errors"][0].numpy():
            raise ValueError(error.decode())
        rows = {name: self._rows(name, answer[name][0].numpy()) for name in self._outputs}
        return next(iter(rows.values())) if self._single else rows

    def _labels(self, name: str) -> list[str]:
        file = "labels.txt" if self._single else f"{name}.labels.txt"
        return (self.folder / "assets" / file).read_text(encoding="utf-8").splitlines()

    def _rows(self, name: str, scores: np.ndarray) -> list[dict[str, Any]]:
        output, names = self._outputs[name], self.class_names[name]
        order = np.argsort(-scores, kind="stable")
        if output["kind"] == "labels":
            best = [index for index in order if scores[index] > output["threshold"]]
        else:
            best = order[:SHOWN]
        number = _NUMBERS[output["kind"]]
        return [
            {"class": names[index], "index": int(index), number: float(scores[index])}
            for index in best
        ]


def _read_card(path: Path) -> Any:
    """Read a card. `keras_preact.files` does it too, but where it is imported, Keras is."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no JSON: {error}") from error


def predict(classifier: Classifier, image: Path) -> dict[str, Any]:
    """Classify an image file, whatever state it is in.

    Args:
        classifier: The model.
        image: Path of the file.

    Returns:
        `{"image": path, "predictions": [...]}`, or `{"image": path, "error": reason}`.
    """
    try:
        return {"image": str(image), "predictions": classifier.classify(image.read_bytes())}
    except OSError as error:
        return {"image": str(image), "error": error.strerror}
    except ValueError as error:
        return {"image": str(image), "error": str(error)}


def table(result: dict[str, Any]) -> str:
    """Format the predictions of one image as text.

    Args:
        result: The result of `predict` for an image that could be read.

    Returns:
        The path of the image, then one line per class; under the name of each of several outputs.
    """
    predictions = result["predictions"]
    if isinstance(predictions, dict):
        parts = [line for name, rows in predictions.items() for line in (f" {name}", *_lines(rows))]
    else:
        parts = _lines(predictions)
    return "\n".join([result["image"], *parts])


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["  no label above the threshold"]
    width = max(len(row["class"]) for row in rows)
    return [
        f"  {rank}  {row['class']:<{width}}  "
        + (f"{row['probability']:7.2%}" if "probability" in row else f"{row['logit']:7.3f}")
        for rank, row in enumerate(rows, start=1)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, 1 where an image could not be read, 2 where the model could not.
    """
    arguments = _parser().parse_args(argv)
    try:
        classifier = Classifier(arguments.model)
    except (OSError, ValueError) as error:
        print(f"savedmodels.predict: {error}", file=sys.stderr)
        return 2
    results = [predict(classifier, image) for image in arguments.images]
    failed = [result for result in results if "error" in result]
    if arguments.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(table(result) for result in results if "predictions" in result))
    for result in failed:
        print(f"savedmodels.predict: {result['image']}: {result['error']}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m savedmodels.predict",
        description=f"Print the {SHOWN} most probable classes of each image; of several labels all "
        "above the threshold of the export. Images that cannot be read are named on standard "
        "error, and the exit code is then 1.",
        allow_abbrev=False,
    )
    add_model_argument(parser)
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG, GIF, BMP or WebP file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
