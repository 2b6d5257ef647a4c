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

import tensorflow as tf

from savedmodels.paths import literal
from savedmodels.versions import add_model_argument, version_folder

SHOWN = 5  # classes per image


class Classifier:
    """A SavedModel written by `savedmodels.export`, loaded.

    Args:
        folder: `NAME/VERSION/`, or `NAME/` for its highest version.

    Raises:
        FileNotFoundError: If there is no such SavedModel.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = version_folder(folder)
        labels = self.folder / "assets" / "labels.txt"
        self.class_names = labels.read_text(encoding="utf-8").splitlines()
        # The signature does not keep the variables of the loaded object alive.
        with literal(self.folder) as path:
            self._module = tf.saved_model.load(str(path))

    def classify(self, encoded: bytes) -> list[dict[str, Any]]:
        """Classify an image.

        Args:
            encoded: Content of a JPEG, PNG, GIF, BMP or WebP file.

        Returns:
            `{"class": name, "index": int, "probability": float}` of the most probable classes,
            the most probable first.

        Raises:
            ValueError: If the image cannot be decoded.
        """
        answer = self._module.signatures["serving_bytes"](image_bytes=tf.constant([encoded]))
        if error := answer["errors"][0].numpy():
            raise ValueError(error.decode())
        top = tf.math.top_k(answer["probabilities"][0], min(SHOWN, len(self.class_names)))
        return [
            {"class": self.class_names[index], "index": index, "probability": probability}
            for probability, index in zip(
                top.values.numpy().tolist(), top.indices.numpy().tolist(), strict=True
            )
        ]


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
        The path of the image, then one line per class.
    """
    width = max(len(row["class"]) for row in result["predictions"])
    rows = (
        f"  {rank}  {row['class']:<{width}}  {row['probability']:7.2%}"
        for rank, row in enumerate(result["predictions"], start=1)
    )
    return "\n".join([result["image"], *rows])


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
    except OSError as error:
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
        description=f"Print the {SHOWN} most probable classes of each image. Images that cannot be "
        "read are named on standard error, and the exit code is then 1.",
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
