"""Shards of a set whose images are resized once: `python -m training.prepare`.

Photographs are larger than what a net sees of them, and most of the time that a pipeline takes is
that of decoding. The shards are a source of images for every command:

    python -m training.prepare --data imagenet2012 --size 320 --output SHARDS
    python -m training.train --recipe imagenet_modern --data SHARDS --output RUN

Started again with the same arguments, it goes on after the shards that are there already.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL.Image import Resampling

from keras_preact.files import read_json, replacing, write_json
from keras_preact.images.pillow import to_pillow
from training.listing.find import add_source_arguments
from training.listing.listing import summary
from training.loading.corrupt import CorruptImages, unreadable
from training.recipe import Recipe, differences
from training.sources import PREPARED, ImageSource, Split, open_source

# Images of a shard, of sources that are not in shards already.
SHARD_IMAGES = 1000
REPORT_EVERY = 10
# What a shard is called after; `test` may be another split's name.
FILE_NAMES = {"train": "train", "test": "validation"}
# Files that every reader of shards decodes.
_KEPT = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class Settings:
    """What decides the content of the shards.

    Args:
        data: Name of the source, for `open_source`.
        data_dir: The same.
        validation_split: The same.
        size: Length of the shorter side of an image, in pixels. Smaller ones stay as they are.
        quality: Quality of the JPEG files, 1 to 100.
    """

    data: str
    data_dir: str | None
    validation_split: float | None
    size: int
    quality: int = 95

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"--size must be 1 or more pixels. Received: {self.size}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality must be in 1..100. Received: {self.quality}")

    def open(self) -> ImageSource:
        """Open the source.

        Raises:
            ValueError: If its images have several labels, which the shards cannot hold.
        """
        source = open_source(self.data, self.data_dir, self.validation_split)
        if source.label_sets is not None:
            raise ValueError(
                "Shards hold one class per image: train on the images and their labels.csv as they "
                f"are. Received: {source.name!r}, whose images have several labels"
            )
        return source


@dataclass(frozen=True)
class Shard:
    """A shard, before it is written.

    Args:
        split: Name of the split.
        number: Its number among those of the split.
        count: Number of shards of the split.
    """

    split: str
    number: int
    count: int

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return f"{FILE_NAMES[self.split]}-{self.number:05d}-of-{self.count:05d}.tfrecord"


@dataclass(frozen=True)
class Written:
    """A shard that is written.

    Args:
        shard: The shard.
        images: Number of its images.
        unreadable: Name and fault of each image that was left out.
    """

    shard: Shard
    images: int
    unreadable: dict[str, str]


def resized(image: bytes | tf.Tensor, size: int, quality: int) -> bytes:
    """Resize an image, upright, so that its shorter side is at most `size`.

    Args:
        image: Content of a file; or pixels `(height, width, 1 or 3)`, uint8.
        size: Length of the shorter side, in pixels.
        quality: Quality of the JPEG file.

    Returns:
        Content of a JPEG file. A smaller image loses nothing: a JPEG or PNG file stays as it is,
        any other becomes a PNG file.

    Raises:
        ValueError: If the image cannot be read.
    """
    picture = to_pillow(image, 3 if isinstance(image, bytes) else image.shape[-1])
    content = io.BytesIO()
    shorter = min(picture.size)
    if shorter <= size:
        if isinstance(image, bytes) and image.startswith(_KEPT):
            return image
        picture.save(content, "PNG")
    else:
        sides = [side * size // shorter for side in picture.size]
        picture.resize(sides, Resampling.BICUBIC).save(content, "JPEG", quality=quality)
    return content.getvalue()


def write_shard(source: ImageSource, shard: Shard, settings: Settings, output: Path) -> Written:
    """Write a shard: first under another name, so that every shard in the folder is whole.

    Args:
        source: Where the images come from.
        shard: The shard.
        settings: How they are resized.
        output: The folder.

    Returns:
        The counts.

    Raises:
        ValueError: If a shard of the source is damaged. The message names the record.
    """
    split = source.split(shard.split)
    count, faults = 0, {}
    with (
        replacing(output / shard.file_name) as partial,
        tf.io.TFRecordWriter(str(partial)) as writer,
    ):
        for name, item in _intact(split.part(shard.number, shard.count), source):
            try:
                writer.write(_record(split, item, len(source.class_names), settings))
                count += 1
            except (ValueError, tf.errors.OpError) as error:
                faults[name.numpy().decode()] = str(error)
    return Written(shard, count, faults)


def _intact(examples: tf.data.Dataset, source: ImageSource) -> Iterator[tuple[Any, Any]]:
    """Yield examples, of a source that is named where it is damaged."""
    try:
        yield from examples
    except tf.errors.DataLossError as error:
        raise ValueError(unreadable(error, source)) from error


def _record(split: Split, item: tf.Tensor, classes: int, settings: Settings) -> bytes:
    """Read and resize an example, and serialize it for `training.sources`."""
    image, label = split.read(item)
    if not 0 <= label < classes:
        raise ValueError(f"label {label} is none of {classes} classes")
    content = image.numpy() if image.dtype == tf.string else image
    content = resized(content, settings.size, settings.quality)
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


class Preparation:
    """The shards of a source, some of which may be written already.

    Args:
        settings: What decides their content.
        output: The folder.
        max_corrupt_images: Unreadable images of a split that are left out before an error is
            raised.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the source cannot be opened.
        FileNotFoundError: The same.
    """

    def __init__(self, settings: Settings, output: Path, max_corrupt_images: int) -> None:
        self.settings = settings
        self.output = output
        self.source = settings.open()
        self.shards = [
            Shard(name, number, count)
            for name in self.source.splits
            for count in [_num_shards(self.source.split(name))]
            for number in range(count)
        ]
        self._record = {
            "source": self.source.name,
            "size": settings.size,
            "quality": settings.quality,
            "validation_split": self.source.held_out,
            "images": {name: self.source.num_examples(name) for name in self.source.splits},
            "class_names": list(self.source.class_names),
        }
        self._corrupt = {
            name: CorruptImages(max_corrupt_images, self.source.num_examples(name))
            for name in self.source.splits
        }
        recorded = self._recorded()
        self._unreadable = {name: {} for name in self.source.splits} | recorded.get(
            "unreadable", {}
        )
        self._done = self._done_before(recorded)
        for name in self.source.splits:
            self._check(name)

    def run(self, processes: int) -> None:
        """Write the shards that are missing.

        Args:
            processes: Number of processes.

        Raises:
            ValueError: If too many images are unreadable.
            OSError: If a file cannot be written.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        self._write_record("running")
        write_json(self.output / "classes.json", list(self.source.class_names))
        missing = [each for each in self.shards if each.file_name not in self._done]
        if len(missing) < len(self.shards):
            print(f"{len(self.shards) - len(missing)} of {len(self.shards)} shards are there.")
        images, start, reported = 0, time.monotonic(), time.monotonic()
        for done, written in enumerate(self._written(missing, processes), start=1):
            images += written.images
            split = written.shard.split
            self._unreadable[split] |= written.unreadable
            self._done.append(written.shard.file_name)
            self._write_record("running")
            self._check(split)
            if time.monotonic() - reported >= REPORT_EVERY or done == len(missing):
                reported = time.monotonic()
                print(_progress(done, len(missing), images, reported - start), flush=True)
        self._write_record("finished")

    def _written(self, shards: Sequence[Shard], processes: int) -> Iterator[Written]:
        """Write shards, and yield each once it is there."""
        if processes == 1:
            for shard in shards:
                yield write_shard(self.source, shard, self.settings, self.output)
            return
        # Threads of TensorFlow do not survive a fork.
        with ProcessPoolExecutor(
            min(processes, len(shards)) or 1,
            get_context("spawn"),
            _open_in_process,
            (self.settings, self.output),
        ) as pool:
            futures = [pool.submit(_write_in_process, shard) for shard in shards]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _check(self, split: str) -> None:
        """Check that not too many images of a split were unreadable.

        Raises:
            ValueError: If there were.
        """
        for name, reason in self._unreadable[split].items():
            self._corrupt[split].add(name, reason)

    def _write_record(self, status: str) -> None:
        found = {"unreadable": self._unreadable, "shards": self._done}
        write_json(self.output / PREPARED, {"status": status, **self._record, **found})

    def _done_before(self, recorded: dict[str, Any]) -> list[str]:
        """Return the names of the shards that are there, and whose unreadable images are known.

        A process that was stopped may have left others, of which nobody wrote down the images.
        """
        names = [shard.file_name for shard in self.shards]
        # Records of earlier revisions do not name them.
        named = recorded.get("shards", names)
        return [name for name in names if name in named and (self.output / name).exists()]

    def _recorded(self) -> dict[str, Any]:
        """Return the record of before, empty if there is none, of a folder of the same shards."""
        path = self.output / PREPARED
        if not path.exists():
            if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
                raise FileExistsError(
                    f"--output must be new, empty or hold the same shards. {self.output} has no "
                    f"{PREPARED}."
                )
            return {}
        recorded = read_json(path)
        before = {name: recorded.get(name) for name in self._record}
        if before["validation_split"] is None:
            # An earlier version noted none of shards; of others `images` tells it.
            before["validation_split"] = self._record["validation_split"]
        if changes := differences(before, self._record):
            raise FileExistsError(
                f"{self.output} holds other shards. Give another --output, or the same values:\n  "
                + "\n  ".join(changes)
            )
        return recorded


# The source of a process, and the rest that `write_shard` needs.
_in_process: list[Any] = []


def _open_in_process(settings: Settings, output: Path) -> None:
    # Ctrl-C is for the process that waits.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    _in_process[:] = settings.open(), settings, output


def _end_with_parent() -> None:
    """End this process once the one that started it has ended, however that was."""
    parent = parent_process()
    # Processes of a pool have one.
    assert parent is not None
    parent.join()
    os._exit(1)


def _write_in_process(shard: Shard) -> Written:
    source, settings, output = _in_process
    return write_shard(source, shard, settings, output)


def _num_shards(split: Split) -> int:
    return min(-(-split.num_examples // SHARD_IMAGES), split.max_parts)


def _progress(done: int, shards: int, images: int, seconds: float) -> str:
    left = time.strftime("%H:%M:%S", time.gmtime(seconds / done * (shards - done)))
    return f"{done} of {shards} shards  {images / max(seconds, 1e-9):.0f} images/s  ETA {left}"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare",
        description="Write a set as TFRecord shards, its images resized once.",
        epilog="Started again with the same arguments, it goes on after the shards that are there.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, metavar="SOURCE", help="as for training.train")
    add_source_arguments(parser)
    parser.add_argument(
        "--size",
        required=True,
        type=int,
        metavar="N",
        help="length of an image's shorter side, pixels; smaller ones stay as they are",
    )
    parser.add_argument(
        "--quality", type=int, default=95, metavar="N", help="of the JPEG files (default: 95)"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the folder of the shards"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="processes that resize (default: one per processor)",
    )
    parser.add_argument(
        "--max-corrupt-images",
        type=int,
        default=Recipe.max_corrupt_images,
        metavar="N",
        help="unreadable images of a split that are left out before it stops "
        f"(default: {Recipe.max_corrupt_images})",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0, 1 if a process was ended, 2 for a wrong argument, 130 after Ctrl-C.
    """
    options = parse_arguments(arguments)
    try:
        if options.processes < 1:
            raise ValueError(f"--processes must be 1 or more. Received: {options.processes}")
        if options.max_corrupt_images < 0:
            raise ValueError(
                f"--max-corrupt-images must be 0 or more. Received: {options.max_corrupt_images}"
            )
        settings = Settings(
            options.data, options.data_dir, options.validation_split, options.size, options.quality
        )
        preparation = Preparation(settings, options.output, options.max_corrupt_images)
        print(summary(preparation.source), flush=True)
        preparation.run(options.processes)
    except (ValueError, OSError) as error:
        print(f"training.prepare: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            "training.prepare: a process was ended, perhaps for want of memory. The same command "
            "goes on; --processes N takes fewer.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on.")
        return 130
    print(f"Written: {len(preparation.shards)} shards in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
