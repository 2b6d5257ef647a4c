"""Write some test images of a source as files, to look at or to predict with.

Example: `python -m training.samples --data digits --output runs/digits/samples`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from keras_preact.files import replacing
from keras_preact.images.kinds import ending
from training.listing.find import add_source_arguments
from training.sources import ImageSource, open_source


def write_samples(source: ImageSource, folder: Path, count: int) -> list[Path]:
    """Write the first images of the test split, as they are stored; pixels as PNG files.

    Args:
        source: Where the images come from.
        folder: Where the files go; made where it is missing.
        count: Number of images.

    Returns:
        The paths, `{place}_class{label}.png`, with the ending of the file's kind; of several labels
        with the numbers of all, as in `{place}_labels0+2.png`.

    Raises:
        ValueError: If the source has no test split.
        OSError: If a file cannot be written.
    """
    split = source.split("test")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for place, (_, item) in split.examples().take(count).enumerate():
        image, label = split.read(item)
        encoded = (image if image.dtype == tf.string else tf.io.encode_png(image)).numpy()
        path = folder / f"{int(place):05d}_{_answer(source, int(label))}{ending(encoded)}"
        with replacing(path) as partial:
            partial.write_bytes(encoded)
        paths.append(path)
    return paths


def _answer(source: ImageSource, label: int) -> str:
    if source.label_sets is None:
        return f"class{label}"
    numbers = source.label_sets[label].nonzero()[0]
    return "labels" + ("+".join(map(str, numbers)) or "-none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments of the command line; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.samples",
        description="Write some test images of a source as files.",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="digits, a folder of class folders or TFRecord shards, or a TFDS name",
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the files"
    )
    parser.add_argument("--count", type=int, default=3, help="number of images (default: 3)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.count < 1:
            raise ValueError(f"--count must be 1 or more. Received: {arguments.count}")
        source = open_source(arguments.data, arguments.data_dir, arguments.validation_split)
        paths = write_samples(source, arguments.output, arguments.count)
    except (OSError, ValueError) as error:
        print(f"training.samples: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
