r"""Transfer on real images: pretrain on eight classes of CIFAR-10, learn two from 50 images each.

    python -m benchmarks.transfer prepare --data DATA/cifar10
    python -m training.train --recipe cifar_short --epochs 8 --data runs/transfer/data/eight \
        --output runs/transfer/pretrained
    python -m benchmarks.transfer tune
    python -m benchmarks.transfer run --output benchmarks/results/transfer

The two are automobile and truck. Among the other eight there is no road vehicle, so the pretrained
net has learned nothing of either; and both stand on roads in every color, so that neither
background nor color tells them apart.

Every run is one of `python -m training.train`, with a folder of its own under `--runs`; started
again, finished ones are only read. All of them are given 100 training images, and training from
scratch three times the steps of the others. The accuracy is that after the last step, on all 2,000
test images of the two classes.

The learning rates are the best of four each in `tune`, by the same test images, but with training
images of a draw that `run` does not use. The best from scratch and the best of fine-tuning are the
largest of the four, so a still larger one might do better for either.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import statistics
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.command import command_line
from benchmarks.report import Report, table
from keras_preact.files import replacing
from training.records.report import write_history_csv
from training.run import read_run
from training.train import main as train

TARGET_CLASSES = ("automobile", "truck")
IMAGES_PER_CLASS = 50
SEEDS = range(5)
TUNING_SEED = 5
RUNS = Path("runs/transfer")

# Options of all runs: an epoch of 100 steps, 25 times over the images, and of 300 from scratch;
# batches of a quarter of them, augmented as in pretraining.
_COMMON = "--epochs 1 --batch-size 25 --reference-batch-size 25 --crop pad --pad 2"
MODES = {
    "frozen features": f"--recipe finetune {_COMMON} --init {{pretrained}} --freeze body "
    "--layer-decay 1 --epoch-steps 100 --warmup-epochs 0.1",
    "fine-tuned": f"--recipe finetune {_COMMON} --init {{pretrained}} "
    "--epoch-steps 100 --warmup-epochs 0.1",
    "from scratch": f"--recipe cifar_short {_COMMON} --epoch-steps 300 --warmup-epochs 0.2",
}
# The rates that `tune` compares, and what came out.
RATES = {
    "frozen features": (0.02, 0.1, 0.5, 2.0),
    "fine-tuned": (0.005, 0.02, 0.08, 0.3),
    "from scratch": (0.02, 0.05, 0.1, 0.2),
}
CHOSEN = {"frozen features": 0.5, "fine-tuned": 0.3, "from scratch": 0.2}


def prepare(data: Path, output: Path) -> None:
    """Split CIFAR-10 into a pretraining set and a small set for each seed, as links.

    Args:
        data: The folder `{train,test}/{class}/*.jpg`.
        output: Folder for `eight` and `two-0`, `two-1`, …; those that exist stay.

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
    for seed in (*SEEDS, TUNING_SEED):
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


def accuracy(runs: Path, mode: str, rate: float, seed: int) -> float:
    """Train once, unless that is done already.

    Args:
        runs: Folder of the runs, with `data` and `pretrained`.
        mode: A key of `MODES`.
        rate: Learning rate.
        seed: Of the draw of the images, the weights and the augmentation.

    Returns:
        Accuracy on the test images after the last epoch.

    Raises:
        RuntimeError: If the training failed.
    """
    output = runs / "target" / f"{mode.replace(' ', '-')}-{rate}-{seed}"
    arguments = [
        *shlex.split(MODES[mode].format(pretrained=runs / "pretrained")),
        *("--learning-rate", str(rate), "--seed", str(seed)),
        *("--data", str(runs / "data" / f"two-{seed}"), "--output", str(output)),
    ]
    keras.backend.clear_session()
    if train(arguments):
        raise RuntimeError(f"training.train failed: {shlex.join(arguments)}")
    return read_run(output)["history"][-1]["val_top1"]


def tune(runs: Path, modes: Iterable[str]) -> str:
    """Compare learning rates on a draw of its own.

    Args:
        runs: Folder of the runs.
        modes: Keys of `MODES`.

    Returns:
        A table.
    """
    rows = [
        (mode, rate, f"{accuracy(runs, mode, rate, TUNING_SEED):.2%}")
        for mode in modes
        for rate in RATES[mode]
    ]
    return table(("mode", "learning rate", "test accuracy"), rows)


def compare(runs: Path, modes: Iterable[str]) -> dict[str, list[float]]:
    """Train every mode with every seed.

    Args:
        runs: Folder of the runs.
        modes: Keys of `MODES`.

    Returns:
        By mode, the test accuracy of each seed.
    """
    return {mode: [accuracy(runs, mode, CHOSEN[mode], seed) for seed in SEEDS] for mode in modes}


def draw(path: Path, accuracies: dict[str, list[float]]) -> None:
    """Draw every seed as a point, and the medians as lines.

    Args:
        path: The PNG file.
        accuracies: By mode, the test accuracy of each seed.
    """
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(accuracies.values()):
        axes.scatter([place] * len(values), values, color="tab:blue", alpha=0.6, zorder=2)
        median = statistics.median(values)
        axes.hlines(median, place - 0.25, place + 0.25, color="tab:orange", zorder=1)
        axes.annotate(f"{median:.2%}", (place + 0.28, median), va="center", fontsize=9)
    axes.set_xticks(range(len(accuracies)), list(accuracies))
    axes.set_xlim(-0.5, len(accuracies) - 0.3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{' or '.join(TARGET_CLASSES)}, {IMAGES_PER_CLASS} training images each")
    axes.grid(axis="y", alpha=0.3)
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def write_results(
    runs: Path, output: Path, accuracies: dict[str, list[float]], report: Report
) -> None:
    """Write `README.md`, `seeds.csv`, `seeds.png` and what the pretraining left.

    Args:
        runs: Folder of the runs.
        output: Folder to write to.
        accuracies: By mode, the test accuracy of each seed.
        report: That is `README.md`.
    """
    (output / "pretrained").mkdir(parents=True, exist_ok=True)
    for file in ("run.json", "history.csv", "curves.png"):
        shutil.copyfile(runs / "pretrained" / file, output / "pretrained" / file)
    records = [
        {"mode": mode, "seed": seed, "learning_rate": CHOSEN[mode], "test_accuracy": value}
        for mode, values in accuracies.items()
        for seed, value in zip(SEEDS, values, strict=True)
    ]
    write_history_csv(output / "seeds.csv", records)
    draw(output / "seeds.png", accuracies)
    header = ("test accuracy", *(f"seed {seed}" for seed in SEEDS), "median")
    rows = [
        (mode, *(f"{value:.2%}" for value in (*values, statistics.median(values))))
        for mode, values in accuracies.items()
    ]
    pretrained = read_run(runs / "pretrained")
    _, how, *what = (__doc__ or "").strip().split("\n\n")
    options = "\n".join(
        f"- {mode}: `{options.format(pretrained=runs / 'pretrained')} "
        f"--learning-rate {CHOSEN[mode]}`"
        for mode, options in MODES.items()
    )
    last = pretrained["history"][-1]
    body = "\n\n".join(
        (
            table(header, rows),
            "![Test accuracy of every seed](seeds.png)",
            f"```\n{textwrap.dedent(how)}\n```",
            *what,
            f"The pretrained net, a {pretrained['recipe']['model']}, tells its classes apart with\n"
            f"{last['val_top1']:.2%} accuracy on their 8,000 test images after "
            f"{last['epoch']} epochs\n([run.json](pretrained/run.json), "
            "[curves](pretrained/curves.png)). The machine was shared with other work.\n"
            "Options of `training.train`:",
            options,
            "Learning rates on the draw for tuning:",
            tune(runs, MODES),
        )
    )
    report.write(body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer")
    commands = parser.add_subparsers(dest="command", required=True)
    each = {
        name: commands.add_parser(name, help=text)
        for name, text in (
            ("prepare", "make the pretraining set and the small sets"),
            ("tune", "compare learning rates on a draw of their own"),
            ("run", "train every mode with every seed"),
        )
    }
    each["prepare"].add_argument("--data", type=Path, required=True, help="CIFAR-10 as folders")
    each["run"].add_argument("--output", type=Path, help="folder for the results of all modes")
    for name, command in each.items():
        command.add_argument("--runs", type=Path, default=RUNS, help=f"default: {RUNS}")
        if name != "prepare":
            command.add_argument("--modes", nargs="+", choices=MODES, default=tuple(MODES))
    options = parser.parse_args(arguments)
    if options.command == "prepare":
        prepare(options.data, options.runs / "data")
    elif options.command == "tune":
        print(tune(options.runs, options.modes))
    else:
        report = Report(
            "Transfer to two classes of CIFAR-10 (JPEG) from 50 images each",
            command_line("benchmarks.transfer", arguments),
            ("keras", "tensorflow"),
            options.output and options.output / "README.md",
        )
        accuracies = compare(options.runs, options.modes)
        if options.output:
            write_results(options.runs, options.output, accuracies, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
