"""Few-shot transfer: `python -m training.fewshot --init WEIGHTS --data SOURCE --output DIR`.

A pretrained net learns the classes of a set from a few images of each, drawn anew several times, by
a linear probe of its features and by fine-tuning; as "Big Transfer" (arXiv:1912.11370, section 4.1)
reports it. Started again, draws that are done are only read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_preact.analysis.pictures.figures import plain
from keras_preact.files import read_json, replacing, write_json
from keras_preact.messages import did_you_mean
from training.data import evaluation_pipeline
from training.engines.devices import Devices
from training.engines.fitting import Job, train
from training.engines.pipelines import PipelineBatches
from training.engines.prepare import prepare_machine
from training.hyperrule import apply_rule
from training.listing.few import few_images
from training.listing.find import add_validation_split, find_listing
from training.listing.listing import Listing, check_splits, is_same_set
from training.loading.corrupt import named
from training.net import prepare_net
from training.recipe import (
    Recipe,
    add_recipe_arguments,
    decisive,
    differences,
    fewest_micro_batches,
    fixed_batch,
    override_recipe,
)
from training.records.checkpoint import CheckpointError
from training.run import Run, read_history
from training.sources import ImageSource, from_listing
from training.train import describe as describe_run
from training.train import named_recipe

# Steps of fine-tuning: those of BiT's HyperRule for fewer than 20,000 images.
STEPS = 500
_COLORS = {"probe": "#4f7cac", "finetune": "#b8560b"}


@dataclass(frozen=True)
class Task:
    """A set whose classes are learned from a few images.

    Attributes:
        name: Name of the set, as it was given.
        listing: All of its images.
        recipe: Names the weights to start from, and how they are fine-tuned.
        options: The command line, whose values come before those of the recipe's rule.
        output: Folder of the results.
        devices: Devices that compute.
    """

    name: str
    listing: Listing
    recipe: Recipe
    options: argparse.Namespace
    output: Path
    devices: Devices

    def source(self, shots: int, draw: int) -> ImageSource:
        """Return the few training images of a draw, and all test images."""
        return from_listing(self.name, few_images(self.listing, shots, draw, self.recipe.seed))

    def recipe_for(self, source: ImageSource) -> Recipe:
        """Return the recipe for these training images, its rule applied."""
        return override_recipe(apply_rule(self.recipe, source), self.options)

    def net(self, recipe: Recipe) -> keras.Model:
        """Build the pretrained net with a new head."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(recipe.seed)
        with self.devices.scope():
            return prepare_net(recipe, self.listing.class_names)


class Probe:
    """Linear classifiers of a net's pooled features: ridge regression on -1 and 1, in closed form.

    That is how few-shot features are measured in "An Image is Worth 16x16 Words"
    (arXiv:2010.11929, section 4.1). The features of the test images are computed once.

    Args:
        task: The set and the net.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        whole = from_listing(task.name, task.listing)
        self._recipe = task.recipe_for(whole)
        net = task.net(self._recipe)
        self._features = keras.Model(net.inputs, net.get_layer("head_pool").output)
        self._tested = self._of(whole, "test")

    def __call__(self, shots: int, draw: int) -> float:
        """Return the accuracy on the test images after a draw."""
        classifier = make_pipeline(StandardScaler(), RidgeClassifier())
        classifier.fit(*self._of(self._task.source(shots, draw), "train"))
        return float(classifier.score(*self._tested))

    def _of(self, source: ImageSource, split: str) -> tuple[np.ndarray, np.ndarray]:
        batches = evaluation_pipeline(source, self._recipe, split).as_numpy_iterator()
        pairs = [
            (keras.ops.convert_to_numpy(self._features.predict_on_batch(images)), labels)
            for images, labels in batches
        ]
        features, labels = (np.concatenate(each) for each in zip(*pairs, strict=True))
        return features, labels.argmax(axis=-1)


def finetune(task: Task, steps: int, shots: int, draw: int) -> float:
    """Train the whole net on the images of a draw, a run of its own.

    Args:
        task: The set and the net.
        steps: Steps of the run, whatever the number of images.
        shots: Images of each class.
        draw: Number of the draw.

    Returns:
        The accuracy on the test images after the last step.
    """
    source = task.source(shots, draw)
    ruled = task.recipe_for(source)
    images, devices = source.num_examples("train"), task.devices.replicas
    recipe = in_one_epoch(ruled, steps, images, devices).replace(seed=ruled.seed + draw)
    job = Job(recipe, PipelineBatches(source, recipe, task.devices), task.devices)
    options = argparse.Namespace(
        recipe=f"{shots} images per class, draw {draw}", data_on_device=False, deterministic=False
    )
    run = Run(task.output / "finetune" / f"{shots}-{draw}", describe_run(options, recipe, source))
    if not run.finished:
        run.start(["python", "-m", "training.fewshot", *sys.argv[1:]], task.devices.names)
        keras.backend.clear_session()
        train(job, job.build_net(), run)
    return read_history(run.output)[-1]["val_top1"]


def in_one_epoch(recipe: Recipe, steps: int, images: int, devices: int = 1) -> Recipe:
    """Return a recipe of so many steps, with the schedule that it has over its epochs.

    The test images are evaluated once, in the end, since they outnumber the others.

    Args:
        recipe: The recipe.
        steps: Its steps.
        images: Training images, as many as devices or more; a batch has no more.
        devices: Devices that share a batch evenly.
    """
    batch = min(recipe.batch_size, images)
    batch -= batch % devices
    # The learning rates stay those of the recipe's batch.
    rates = ("learning_rate", "warmup_learning_rate", "final_learning_rate")
    return recipe.replace(
        **{rate: getattr(recipe, rate) * recipe.learning_rate_scale for rate in rates},
        reference_batch_size=0,
        epochs=1,
        epoch_steps=steps,
        warmup_epochs=recipe.warmup_epochs / recipe.epochs,
        step_epochs=tuple(each / recipe.epochs for each in recipe.step_epochs),
        batch_size=batch,
        gradient_accumulation_steps=fewest_micro_batches(batch, recipe.micro_batch_size, devices),
    )


Results = dict[str, dict[str, list[float]]]


def measure(
    task: Task, methods: Sequence[str], shots: Sequence[int], draws: int, steps: int
) -> Results:
    """Measure every method with every number of images and draw.

    Args:
        task: The set and the net.
        methods: Of `METHODS`.
        shots: Images of each class.
        draws: Draws of each number.
        steps: Steps of fine-tuning.

    Returns:
        Test accuracies by method and number of images, one for each draw.
    """
    path = task.output / "results.json"
    known = read_json(path) if path.exists() else {}
    for method in methods:
        learn = None
        for count, draw in itertools.product(shots, range(draws)):
            found = known.setdefault(method, {}).setdefault(str(count), [])
            if draw < len(found):
                continue
            learn = learn or METHODS[method](task, steps)
            found.append(learn(count, draw))
            write_json(path, known)
            print(f"{method}, {count} per class, draw {draw}: {found[-1]:.2%}", flush=True)
    return {
        method: {str(count): known[method][str(count)][:draws] for count in shots}
        for method in methods
    }


Learn = Callable[[int, int], float]
METHODS: dict[str, Callable[[Task, int], Learn]] = {
    "probe": lambda task, steps: Probe(task),
    "finetune": lambda task, steps: lambda shots, draw: finetune(task, steps, shots, draw),
}


def table(results: Results) -> str:
    """Format results as Markdown: the least, the median and the largest of the draws, in percent.

    Args:
        results: From `measure`.
    """
    shots = list(next(iter(results.values())))
    lines = [["method", *(f"{count} per class" for count in shots)], ["---"] * (1 + len(shots))]
    for method, by_shots in results.items():
        cells = [
            " / ".join(
                f"{100 * each:.1f}" for each in (min(top1), statistics.median(top1), max(top1))
            )
            for top1 in by_shots.values()
        ]
        lines.append([method, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_results(path: Path, results: Results, title: str) -> None:
    """Draw every draw as a point, and a line through the medians.

    Args:
        path: The PNG file.
        results: From `measure`.
        title: Of the plot.
    """
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for method, by_shots in results.items():
        shots = [int(count) for count in by_shots]
        for count, top1 in zip(shots, by_shots.values(), strict=True):
            axes.plot([count] * len(top1), np.multiply(top1, 100), "o", color=_COLORS[method])
        medians = [100 * statistics.median(top1) for top1 in by_shots.values()]
        axes.plot(shots, medians, color=_COLORS[method], label=f"{method}, median")
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.minorticks_off()
    axes.set_xlabel("training images of each class")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(plain(title))
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    """Read the command line.

    Args:
        arguments: The arguments, without the name of the program.

    Returns:
        The options, and the recipe with the overrides applied.

    Raises:
        ValueError: If a value is wrong.
        FileNotFoundError: If there is no such recipe or weights.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.fewshot",
        allow_abbrev=False,
        description="Learn the classes of a set from a few images of each, with pretrained weights "
        "(--init). Started again, draws that are done are only read.",
        epilog="Every value of the recipe may be overridden, as in training.train.",
    )
    parser.add_argument("--recipe", default="finetune", metavar="NAME", help="default: finetune")
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="see training.train; no TFRecords"
    )
    add_validation_split(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--shots", nargs="+", type=int, default=[1, 5], metavar="N", help="default: 1 5"
    )
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help=f"of fine-tuning (default: {STEPS})"
    )
    named = ["--recipe", "finetune", *arguments]
    recipe = named_recipe(named)
    add_recipe_arguments(parser, recipe)
    options = parser.parse_args(arguments)
    for method in options.methods:
        if method not in METHODS:
            hint = did_you_mean(method, METHODS, quote="'")
            raise ValueError(f"--methods must be of {', '.join(METHODS)}. Received: {method}{hint}")
    numbers = {"shots": options.shots, "draws": [options.draws], "steps": [options.steps]}
    for name, values in numbers.items():
        if min(values) < 1:
            raise ValueError(f"--{name} must be 1 or more. Received: {min(values)}")
    recipe = fixed_batch(override_recipe(recipe, options))
    if not recipe.init:
        raise ValueError("--init must name the weights to start from. Received: none")
    return options, recipe


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The command line, without the program.

    Raises:
        ValueError: If an argument is wrong, the output holds results of another command, or too
            many images are unreadable.
        FloatingPointError: If the loss of a fine-tuning explodes or is no longer finite.
        OSError: If a file cannot be read or written.
    """
    options, recipe = parse_arguments(arguments)
    listing = _listing_of(options)
    options.output.mkdir(parents=True, exist_ok=True)
    about = {
        "recipe": _as_json(recipe),
        "data": options.data,
        "steps": options.steps,
        "validation_split": listing.held_out,
        "images": {split: len(names) for split, names in listing.names.items()},
    }
    _check_output(options.output / "fewshot.json", about)
    devices = prepare_machine(recipe, (), deterministic=False)
    classes, shots = len(listing.class_names), min(options.shots)
    if "finetune" in options.methods and classes * shots < devices.replicas:
        raise ValueError(
            f"Fine-tuning needs an image for each of the {devices.replicas} devices or more. "
            f"Received: --shots {shots} of {classes} classes"
        )
    task = Task(options.data, listing, recipe, options, options.output, devices)
    with named(from_listing(task.name, listing)):
        results = measure(task, options.methods, options.shots, options.draws, options.steps)
    text = table(results)
    title = f"{recipe.init} on {Path(options.data).name}"
    heading = f"# {title}\n\nTest accuracy in percent, least / median / largest of {options.draws} "
    with replacing(options.output / "fewshot.md") as partial:
        partial.write_text(f"{heading}draws.\n\n{text}\n", encoding="utf-8")
    draw_results(options.output / "fewshot.png", results, title)
    print(text)


def _listing_of(options: argparse.Namespace) -> Listing:
    """List the images of the set, of which a few of each class can be drawn."""
    listing = find_listing(options.data, options.validation_split)
    if listing is None:
        raise ValueError(
            "--data must be a set whose images are listed one by one: class folders, CIFAR's "
            f"files, .npz files or digits. Received: {options.data!r}"
        )
    if listing.label_sets is not None:
        raise ValueError(
            "So many images of each class are drawn only where an image has one class. Received: "
            f"{options.data!r}, whose images have several labels"
        )
    check_splits(options.data, listing)
    few_images(listing, max(options.shots), 0)
    return listing


def _as_json(recipe: Recipe) -> Any:
    return json.loads(json.dumps(vars(recipe)))


def _check_output(path: Path, about: dict[str, Any]) -> None:
    """Note what the results are of, or check that earlier ones are of the same."""
    if path.exists():
        noted = read_json(path)
        if not isinstance(noted, dict) or not isinstance(noted.get("recipe"), dict):
            raise ValueError(f"{path} is damaged: it has no recipe.")
        before, now = _flat(noted), _flat(about)
        if is_same_set(str(before.get("data")), now["data"]):
            before["data"] = now["data"]
        # An earlier version noted less.
        if changes := differences(decisive({**now, **before}), decisive(now)):
            raise ValueError(
                f"{path.parent} holds results of other values. Give another --output, or the same "
                "values:\n  " + "\n  ".join(changes)
            )
        if unknown := sorted({*now} - {*before}):
            print(
                f"{path} does not tell {', '.join(unknown)} of its results, which are taken to be "
                "those of this command.",
                file=sys.stderr,
            )
    write_json(path, about)


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    return {**about, **about["recipe"], "recipe": None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, without the program; that of the process by default.

    Returns:
        The exit status: 0, 1 if a fine-tuning failed, 2 for a wrong argument, 130 after Ctrl-C.
    """
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except (FloatingPointError, CheckpointError) as error:
        print(f"training.fewshot: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        print(f"training.fewshot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
