"""TFRecord shards of images and their labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf


def record(image: bytes, label: int) -> bytes:
    """Return the record of an image file and its label."""
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Write a shard of records."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in records:
            writer.write(each)
