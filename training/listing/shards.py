"""Folders of records, such as TFRecord shards, whose images are not listed one by one."""

from __future__ import annotations

import collections
import os
import re
from pathlib import Path

from training.listing.listing import TEST_SPLITS

# What TensorFlow Datasets writes beside the records that it prepares.
DATASET_INFO = "dataset_info.json"
_SPLITS = "|".join(("train", *TEST_SPLITS))
_SHARD = re.compile(rf"({_SPLITS})-(.*\.tfrecord.*|.{{5}}-of-.{{5}})", re.DOTALL)


def find_shards(root: Path) -> dict[str, list[str]]:
    """Find the TFRecord shards of a folder.

    Args:
        root: The folder.

    Returns:
        The paths of each split that has any, in order.
    """
    shards: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(os.listdir(root)):
        if match := _SHARD.fullmatch(name):
            shards[match[1]].append(str(root / name))
    return dict(shards)


def holds_records(root: Path) -> bool:
    """Return whether a folder holds TFRecord shards, or a set prepared by TensorFlow Datasets.

    Args:
        root: The folder.
    """
    return (root / DATASET_INFO).exists() or bool(find_shards(root))
