"""Transfer on real images: pretrain on eight classes of CIFAR-10, learn the other two from 50 each.

    python -m benchmarks.transfer prepare --data DATA/cifar10 --output runs/transfer/data
    python -m training.train --recipe cifar_short --epochs 8 --data runs/transfer/data/eight \
        --output runs/transfer/pretrained

The two are automobile and truck. Among the other eight there is no road vehicle, so the pretrained
net has learned nothing of either; and both stand on roads in every colour, so that neither
background nor colour tells them apart.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

TARGET_CLASSES = ("automobile", "truck")
IMAGES_PER_CLASS = 50
SEEDS = range(5)


def prepare(data: Path, output: Path) -> None:
    """Split CIFAR-10 into a pretraining set and a small set for each seed, as links.

    Args:
        data: The folder `{train,test}/{class}/*.jpg`.
        output: Where `eight` and `two-0`, `two-1`, … are made. What is there already stays.

    Raises:
        FileNotFoundError: If `data` lacks a class.
    """
    classes = sorted(path.name for path in (data / "train").iterdir() if path.is_dir())
    missing = set(TARGET_CLASSES) - set(classes)
    if missing or len(classes) != 10:
        raise FileNotFoundError(
            f"{data} must hold train/CLASS/*.jpg of CIFAR-10's ten classes. Received: {classes}"
        )
    for split in ("train", "test"):
        for name in classes:
            if name not in TARGET_CLASSES:
                _link(data / split / name, output / "eight" / split / name)
    for seed in SEEDS:
        folder = output / f"two-{seed}"
        for name in TARGET_CLASSES:
            _link(data / "test" / name, folder / "test" / name)
            files = sorted(os.listdir(data / "train" / name))
            for file in random.Random(seed).sample(files, IMAGES_PER_CLASS):
                _link(data / "train" / name / file, folder / "train" / name / file)


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target.resolve())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="make the pretraining set and the small sets")
    command.add_argument("--data", type=Path, required=True, help="CIFAR-10 as folders")
    command.add_argument("--output", type=Path, required=True, help="where the links are made")
    options = parser.parse_args(arguments)
    prepare(options.data, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
