"""Images/s of the ImageNet training pipeline against image_dataset_from_directory.

    python -m benchmarks.input_pipeline --archive ../shared/data/imagenet-samples.tar

All pipelines read the same photographs in turn, in one process, which takes the batches and drops
them: from a folder of class folders, or from shards that `training.prepare` has made of it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import tensorflow as tf

from benchmarks.command import at_least, command_line
from benchmarks.report import Report, table
from training import prepare
from training.augmentation.augment import random_box
from training.data import training_pipeline
from training.loading.reading import ImageReader, part_of
from training.recipe import Recipe, load_recipe
from training.sources import ImageSource, open_source

# Times each photograph is in the folder, so that an epoch is 50 batches long; and memory for them,
# decoded, where they are kept.
COPIES = 32
CACHE_GIB = 4
PEER = "image_dataset_from_directory"
# Shorter side of the photographs in the shards, in pixels.
SHARD_SIZE = 320


def unpack(archive: Path, root: Path) -> None:
    """Unpack photographs named CLASS_LABEL.JPEG into `root/train/CLASS/`."""
    with tarfile.open(archive) as photographs:
        for member in filter(tarfile.TarInfo.isfile, photographs):
            name = Path(member.name)
            folder = root / "train" / name.stem.split("_")[0]
            folder.mkdir(parents=True)
            photograph = photographs.extractfile(member)
            # It is a file.
            assert photograph is not None
            content = photograph.read()
            for copy in range(COPIES):
                (folder / f"{copy}{name.suffix}").write_bytes(content)


def plain(root: Path, recipe: Recipe, size: int) -> tf.data.Dataset:
    """Make the pipeline of the peer: whole images, only resized."""
    return keras.utils.image_dataset_from_directory(
        root / "train",
        label_mode="categorical",
        image_size=(size, size),
        batch_size=recipe.batch_size,
        interpolation=recipe.interpolation,
        verbose=False,
    ).repeat()


def plain_augmented(root: Path, recipe: Recipe) -> tf.data.Dataset:
    """Make the pipeline of the peer with the crop, flip and normalization of Keras for ImageNet."""
    layers = keras.Sequential(
        [
            keras.layers.RandomCrop(recipe.input_size, recipe.input_size),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.Normalization(
                mean=[255 * mean for mean in recipe.mean],
                variance=[(255 * deviation) ** 2 for deviation in recipe.std],
            ),
        ]
    )
    images = plain(root, recipe, int(recipe.input_size / recipe.crop_fraction))
    return images.map(
        lambda image, label: (layers(image, training=True), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)


def prepared(root: Path) -> Path:
    """Write the photographs as shards, their shorter sides resized, and return the folder."""
    shards = root / "shards"
    arguments = ["--data", str(root), "--size", str(SHARD_SIZE), "--output", str(shards)]
    if prepare.main([*arguments, "--processes", "1"]):
        sys.exit("The shards could not be written.")
    return shards


def candidates(root: Path, shards: ImageSource, batch_size: int) -> dict[str, tf.data.Dataset]:
    """Return the pipelines by name; the others are compared with the first and the second."""
    paper = load_recipe("imagenet_paper").replace(batch_size=batch_size, cache_gib=CACHE_GIB)
    crops_only = paper.replace(color_jitter=0.0, lighting=0.0)
    modern = load_recipe("imagenet_modern").replace(batch_size=batch_size, cache_gib=CACHE_GIB)
    source = open_source(str(root))
    return {
        f"{PEER}, resized": plain(root, paper, paper.input_size),
        f"{PEER}, resized; RandomCrop, RandomFlip, Normalization": plain_augmented(root, paper),
        "ours: random resized crop, flip, normalize": training_pipeline(source, crops_only),
        "ours: the same, decoded in every epoch": training_pipeline(
            source, crops_only.replace(cache_gib=0)
        ),
        "ours: random resized crop, flip, color jitter, lighting": training_pipeline(source, paper),
        "ours: random resized crop, RandAugment, mixup, CutMix": training_pipeline(source, modern),
        f"ours, from shards of {SHARD_SIZE} pixels, decoded in every epoch: random resized crop, "
        "flip, normalize": training_pipeline(shards, crops_only.replace(cache_gib=0)),
        "ours, from the same shards, decoded in every epoch: random resized crop, RandAugment, "
        "mixup, CutMix": training_pipeline(shards, modern.replace(cache_gib=0)),
    }


def stages(source: ImageSource, batch_size: int) -> dict[str, tf.data.Dataset]:
    """Return the pipeline of crops, cut off after each stage, by the name of the stage."""
    recipe = load_recipe("imagenet_paper").replace(
        batch_size=batch_size, color_jitter=0.0, lighting=0.0, cache_gib=0
    )
    reader = ImageReader(source, "train", 0)
    # Only a pixel goes on, so that the stages after this one cost next to nothing.
    nothing = tf.zeros([1, 1, recipe.channels], tf.uint8)
    pixel = tf.TensorSpec(nothing.shape, nothing.dtype)

    def until(prepare: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.data.Dataset:
        examples = reader.examples(tf.constant([0, 1], tf.int64)).repeat().enumerate()
        return reader.read(examples, prepare, pixel).batch(batch_size)

    def decode(image: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([recipe.seed, place])
        return part_of(
            image,
            lambda shape: random_box(shape, seed, min_area=recipe.min_area),
            recipe.input_size,
            recipe.channels,
        )[:1, :1]

    return {
        "read the records in random order": until(lambda image, place: nothing),
        "decode a random part": until(decode),
        "resize, mirror, batch, normalize": training_pipeline(source, recipe),
    }


class Seconds(NamedTuple):
    """Time that the batches of a pipeline take.

    Attributes:
        wall: Seconds, without those up to the first batch.
        processor: Processor seconds, without those up to the first batch.
        start: Processor seconds up to the first batch.
    """

    wall: float
    processor: float
    start: float


def measure(dataset: tf.data.Dataset, batches: int) -> Seconds:
    """Read the first batch, and then as many as are to be measured.

    Until the first batch TensorFlow builds and optimizes the graphs of a pipeline, which takes as
    long as some thousand images. Each later epoch costs a tenth of that again, which is measured.
    """
    start = time.process_time()
    iterator = iter(dataset)
    next(iterator)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in itertools.islice(iterator, batches):
        pass
    return Seconds(time.perf_counter() - wall, time.process_time() - processor, processor - start)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="imagenet-samples.tar")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=at_least(1), default=100, help="batches a round")
    parser.add_argument("--rounds", type=at_least(2), default=5, help="the first is not counted")
    parser.add_argument("--output", type=Path, help="also write the result here")
    options = parser.parse_args()
    report = Report(
        f"Input pipeline, 100 ImageNet photographs, batch {options.batch_size} at 224x224",
        command_line("benchmarks.input_pipeline"),
        ("keras", "tensorflow"),
        options.output,
    )
    with tempfile.TemporaryDirectory() as folder:
        unpack(options.archive, Path(folder))
        shards = open_source(str(prepared(Path(folder))))
        pipelines = candidates(Path(folder), shards, options.batch_size)
        parts = stages(shards, options.batch_size)
        rounds = [
            {name: measure(each, options.batches) for name, each in (pipelines | parts).items()}
            for _ in range(options.rounds)
        ][1:]
    images = options.batch_size * options.batches
    parts_of_body = (
        _table([{name: each[name] for name in pipelines} for each in rounds], images),
        f"Median of {len(rounds)} rounds. {FOOTNOTE}",
        f"Processor time from shards of {SHARD_SIZE} pixels, up to the end of each stage:",
        _stage_table([{name: each[name] for name in parts} for each in rounds], images),
    )
    report.write("\n\n".join(parts_of_body))


FOOTNOTE = (
    "Ours decodes the photographs once, before the first batch, and keeps them in memory, where "
    "they fit, as all do here; the row that decodes them in every epoch, as the peer does, is what "
    "a larger set such as ImageNet gets. The ratios are to the first and to the second row and the "
    "median over the rounds of each round's own. The time to the first batch, in which TensorFlow "
    "builds its graphs, is in the last column only. Images per processor second depend less on "
    "what else the machine does than images/s."
)


def _table(rounds: list[dict[str, Seconds]], images: int) -> str:
    bare, augmented, *_ = rounds[0]
    rows = []
    for name in rounds[0]:
        row = [name]
        for clock in range(2):
            seconds = [results[name][clock] for results in rounds]
            row.append(f"{images / statistics.median(seconds):.0f}")
            for peer in (bare, augmented):
                ratios = [results[peer][clock] / results[name][clock] for results in rounds]
                row.append(f"{statistics.median(ratios):.2f}")
        start = statistics.median(results[name].start for results in rounds)
        rows.append([*row, f"{start:.1f}"])
    ratios = ["to first", "to second"]
    columns = ["images/s", *ratios, "per processor s", *ratios, "processor s to the first batch"]
    return table(["pipeline", *columns], rows)


def _stage_table(rounds: list[dict[str, Seconds]], images: int) -> str:
    rows = []
    for name in rounds[0]:
        seconds = statistics.median(results[name].processor for results in rounds)
        rows.append([name, f"{1000 * seconds / images:.2f}"])
    return table(["stage", "processor ms per image"], rows)


if __name__ == "__main__":
    main()
