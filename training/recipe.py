"""Recipes: the values of a training run, read from a short TOML file."""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_preact.messages import did_you_mean
from keras_preact.preprocessing import Preprocessing
from training.class_weight import CLASS_WEIGHTS

RECIPES = Path(__file__).parent / "recipes"

# The `batch_size` that leaves the choice to `training.train`.
AUTO = "auto"

# Allowed values of `freeze`.
FROZEN_PARTS = r"none|stem|stage[2-9]\d*|body"

# Values that decide nothing of what is trained, so that work goes on with others: `cache_gib` is
# none of them, since images in memory are shuffled and cropped by other random numbers.
UNDECISIVE = ("max_corrupt_images", "jit_compile", "steps_per_execution")

# Arguments of a builder that are no options of a run, and why.
_NOT_OPTIONS = {
    "classes": "the set of images decides it",
    "include_top": "every net that is trained has its head",
    "input_shape": "`input_size` and `channels` decide it",
    "weights": "`init` names them",
    "dtype": "`dtype_policy` decides it",
    "data_format": "images have their channels last",
}

# The headings of `--help`, each with the first field under it.
_GROUPS = {
    "model": "net",
    "init": "fine-tuning",
    "rule": "schedule",
    "momentum": "optimizer",
    "input_size": "images",
    "crop": "augmentation of the training images",
    "dtype_policy": "machine",
}


def _value(help: str, default: Any, **limits: Any) -> Any:
    """Declare a field of a recipe with its help text and its limits.

    Args:
        help: Text for `--help`.
        default: Its value where a recipe does not give one.
        **limits: `choices`, or bounds of numbers: `minimum`, `maximum`, `above`, `below`; `word`:
            what may stand in place of a number.
    """
    metadata = {"help": help, **limits}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training run, but the images.

    Every field may be set in a recipe file and overridden on the command line
    (`batch_size` by `--batch-size`, and so on).
    """

    # The net.
    model: str = _value("builder in keras_preact", "PreActResNet50")
    model_options: dict[str, Any] = _value("keyword options of the builder", {})

    # Fine-tuning.
    init: str = _value(
        "weights to start from: the folder of a run, a .keras or .weights.h5 file, the name of "
        "published weights, imagenet or cifar10; the head is replaced if its classes are others",
        "",
    )
    grow: bool = _value(
        "init is of a net with fewer units or channels; the recipe's starts with its function",
        False,
    )
    freeze: str = _value(
        "last part that keeps its weights of init, and so do all before it: stem, stage2, …, or "
        "body, so that only the head is trained",
        "none",
    )
    layer_decay: float = _value(
        "factor between the learning rates of a stage and the next; that of the head is whole",
        1.0,
        above=0,
        maximum=1,
    )

    # The schedule.
    rule: str = _value(
        "bit_hyperrule: number and size of the training images decide the schedule, batch_size, "
        "input_size, the crop and mixup, where the command line does not",
        "none",
        choices=("none", "bit_hyperrule"),
    )
    epochs: int = _value("epochs, each ending with an evaluation", 90, minimum=1)
    epoch_steps: int = _value(
        "steps of an epoch, over as many passes as it takes; 0 means one pass", 0, minimum=0
    )
    patience: int = _value(
        "epochs without a better val_top1, or val_mAP of several labels, after which the run ends, "
        "in its last state; 0 means all epochs",
        0,
        minimum=0,
    )
    batch_size: int = _value(
        "global batch: images per step, over all replicas; auto: the largest that memory holds, "
        "which training.train finds; see --memory-gib",
        256,
        minimum=1,
        word=AUTO,
    )
    gradient_accumulation_steps: int = _value(
        "micro-batches of a step, whose gradients are added up: memory holds the maps of "
        "batch_size / gradient_accumulation_steps images",
        1,
        minimum=1,
    )
    learning_rate: float = _value("peak learning rate at the reference batch", 0.1, above=0)
    reference_batch_size: int = _value(
        "batch the learning rates are given for; all of them are multiplied by "
        "batch_size / reference_batch_size; 0 means no scaling",
        256,
        minimum=0,
    )
    schedule: str = _value(
        "shape of the learning rate", "cosine", choices=("constant", "step", "cosine", "one_cycle")
    )
    warmup_epochs: float = _value(
        "epochs before the schedule: a linear ramp from warmup_learning_rate to the peak "
        "(one_cycle: its rising part)",
        0.0,
        minimum=0,
    )
    warmup_learning_rate: float = _value(
        "learning rate at the first step of the warm-up, at the reference batch", 0.0, minimum=0
    )
    warmup_constant: bool = _value("hold warmup_learning_rate instead of ramping", False)
    step_epochs: tuple[float, ...] = _value(
        "epochs after which `step` lowers the rate", (), above=0
    )
    step_factor: float = _value("factor that `step` applies each time", 0.1, above=0, maximum=1)
    final_learning_rate: float = _value(
        "rate that cosine and one_cycle end at, at the reference batch", 0.0, minimum=0
    )

    # The optimizer: SGD.
    momentum: float = _value("momentum of SGD", 0.9, minimum=0, below=1)
    nesterov: bool = _value("Nesterov momentum", False)
    weight_decay: float = _value("L2 penalty on conv and dense kernels only", 1e-4, minimum=0)
    label_smoothing: float = _value(
        "share of the label spread over all classes; of several labels, of each, moved to one half",
        0.0,
        minimum=0,
        below=1,
    )
    class_weight: str = _value(
        "weight of an image's loss: balanced: in inverse proportion to the images of its class",
        "none",
        choices=CLASS_WEIGHTS,
    )
    ema_momentum: float = _value(
        "moving average of the weights and of the statistics of norms; 0 means none",
        0.0,
        minimum=0,
        below=1,
    )

    # The images.
    input_size: int = _value("height and width the net sees, pixels", 224, minimum=1)
    channels: int = _value("color channels, 1 or 3", 3, choices=(1, 3))
    mean: tuple[float, ...] = _value("channel means, for pixels in 0..1", (0.485, 0.456, 0.406))
    std: tuple[float, ...] = _value("channel deviations, for pixels in 0..1", (0.229, 0.224, 0.225))
    interpolation: str = _value("resizing", "bicubic", choices=("bilinear", "bicubic"))
    crop_fraction: float = _value(
        "share of the resized image evaluation crops out", 0.875, above=0, maximum=1
    )

    # Augmentation of the training images.
    crop: str = _value(
        "none: as in evaluation; pad: pad and crop at random; random: resize to resize_size and "
        "crop at random; random_resized: a random area and aspect ratio",
        "random_resized",
        choices=("none", "pad", "random", "random_resized"),
    )
    pad: int = _value("pixels of padding of crop = pad", 4, minimum=0)
    resize_size: int = _value(
        "height and width that crop = random resizes images to, pixels", 256, minimum=1
    )
    min_area: float = _value(
        "smallest share of the image random_resized crops", 0.08, above=0, maximum=1
    )
    flip: bool = _value("mirror left-right at random", True)
    color_jitter: float = _value(
        "strength of brightness, contrast, saturation; 0 is off", 0.0, minimum=0
    )
    lighting: float = _value("deviation of the PCA color noise (AlexNet); 0 is off", 0.0, minimum=0)
    rand_augment_layers: int = _value("RandAugment operations per image; 0 is off", 0, minimum=0)
    rand_augment_magnitude: float = _value(
        "RandAugment magnitude, 0..10", 9.0, minimum=0, maximum=10
    )
    cutout: int = _value("side of the square blanked out, pixels; 0 is off", 0, minimum=0)
    mixup_alpha: float = _value("Beta parameter of mixup; 0 is off", 0.0, minimum=0)
    cutmix_alpha: float = _value("Beta parameter of CutMix; 0 is off", 0.0, minimum=0)
    max_corrupt_images: int = _value(
        "unreadable images skipped before the run stops", 10, minimum=0
    )

    # The machine.
    dtype_policy: str = _value(
        "Keras dtype policy",
        "float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    cache_gib: float = _value(
        "decoded images that memory may hold, GiB, of the training and of the test images each; "
        "of a larger set they are decoded anew in every epoch",
        1.0,
        minimum=0,
        maximum=100,
    )
    jit_compile: bool = _value("compile the step with XLA", False)
    steps_per_execution: int = _value(
        "steps that begin without Python in between, after the last of which callbacks are called; "
        "0 means 10 for a net whose steps take less time than Python, else 1; 1 off TensorFlow",
        0,
        minimum=0,
    )
    seed: int = _value("seed of weights, data order and augmentation", 0, minimum=0)

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if "word" in each.metadata and value == each.metadata["word"]:
                continue
            value = _converted(each.name, value, kinds[each.name])
            _check_limits(each, value)
            object.__setattr__(self, each.name, value)
        self._check_together()

    def _check_together(self) -> None:
        """Check the values that must fit one another.

        Raises:
            ValueError: If two values do not fit.
        """
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(
                    f"`{name}` must have one value for each of `channels` = {self.channels}. "
                    f"Received: {getattr(self, name)}"
                )
        # It checks their values.
        preprocessing_of(self)
        for name, reason in _NOT_OPTIONS.items():
            if name in self.model_options:
                raise ValueError(
                    f"`{name}` must not be in `model_options`: {reason}. "
                    f"Received: {self.model_options[name]!r}"
                )
        if self.lighting and self.channels != 3:
            raise ValueError(
                "`lighting` is noise of RGB colors, and must be 0 for `channels` = "
                f"{self.channels}. Received: {self.lighting}"
            )
        if self.batch_size != AUTO and self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                "`gradient_accumulation_steps` must divide `batch_size` = "
                f"{self.batch_size}. Received: {self.gradient_accumulation_steps}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"`warmup_epochs` must be below `epochs` = {self.epochs}. "
                f"Received: {self.warmup_epochs}"
            )
        if self.crop == "random" and self.resize_size < self.input_size:
            raise ValueError(
                f"`resize_size` must be at least `input_size` = {self.input_size} where `crop` is "
                f"'random'. Received: {self.resize_size}"
            )
        if not re.fullmatch(FROZEN_PARTS, self.freeze):
            raise ValueError(
                "`freeze` must be none, stem, stage2, stage3 and so on, or body. "
                f"Received: {self.freeze!r}"
            )
        if self.freeze != "none" and not self.init:
            raise ValueError(
                "`freeze` keeps the weights of `init`, which is not given: random weights would "
                f"never learn. Received: freeze={self.freeze!r}"
            )
        if self.grow and not self.init:
            raise ValueError(
                "`grow` starts with the function of `init`, which is not given. Received: grow=True"
            )
        if self.schedule == "step":
            times = [self.warmup_epochs, *self.step_epochs, float(self.epochs)]
            if not self.step_epochs or times != sorted(set(times)):
                raise ValueError(
                    "`step_epochs` must name rising epochs between `warmup_epochs` = "
                    f"{self.warmup_epochs} and `epochs` = {self.epochs}. "
                    f"Received: {self.step_epochs}"
                )

    @property
    def learning_rate_scale(self) -> float:
        """Factor of every learning rate: the linear scaling rule."""
        if self.reference_batch_size == 0:
            return 1.0
        return self.batch_size / self.reference_batch_size

    @property
    def micro_batch_size(self) -> int:
        """Images that pass the net at a time, over all replicas."""
        return self.batch_size // self.gradient_accumulation_steps

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some values changed, and check it again."""
        return dataclasses.replace(self, **changes)


def load_recipe(name_or_path: str | Path, defaults: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: Name of a file in `training/recipes`, without its ending, or the path of any
            TOML file.
        defaults: Values for what the file leaves open, by name; those of `Recipe` otherwise.

    Returns:
        The recipe, checked.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the file is not TOML, or has an unknown key or a value out of its range.
    """
    values = {**(defaults or {}), **recipe_values(name_or_path)}
    try:
        return Recipe(**values)
    except ValueError as error:
        raise ValueError(f"{_recipe_path(name_or_path)}: {error}") from error


def recipe_values(name_or_path: str | Path) -> dict[str, Any]:
    """Read the values in the file of a recipe, and check only their names.

    Args:
        name_or_path: As for `load_recipe`.

    Returns:
        The values, by name.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the file is not TOML, or has an unknown key.
    """
    path = _recipe_path(name_or_path)
    if not path.is_file():
        known = sorted(each.stem for each in RECIPES.glob("*.toml"))
        hint = did_you_mean(path.stem, known, quote="'")
        raise FileNotFoundError(
            f"No recipe {str(name_or_path)!r}.{hint} "
            f"The recipes are {', '.join(known)}; any other is given by the path of its .toml file."
        )
    try:
        return _known_fields(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _recipe_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    return path if path.suffix == ".toml" else RECIPES / f"{name_or_path}.toml"


def add_recipe_arguments(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Add one option for each value of a recipe, grouped, with the recipe's values as defaults.

    Args:
        parser: The parser to add to.
        recipe: The recipe that the options override.
    """
    kinds = typing.get_type_hints(Recipe)
    group: argparse._ActionsContainer = parser
    for each in dataclasses.fields(Recipe):
        if each.name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[each.name])
        value = getattr(recipe, each.name)
        group.add_argument(
            "--" + each.name.replace("_", "-"),
            # Only what is given on the command line ends up in the parsed arguments.
            default=argparse.SUPPRESS,
            help=f"{each.metadata['help']} (default: {_shown(value)})",
            **_argument_form(kinds[each.name], each.metadata),
        )


def override_recipe(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """Apply the options that `add_recipe_arguments` added.

    Args:
        recipe: The recipe to start from.
        arguments: The parsed command line.

    Returns:
        The changed recipe. `--model-options` adds to the recipe's, as often as it is given; any
        other option replaces.

    Raises:
        ValueError: If a value is of the wrong type or out of its range.
    """
    names = {each.name for each in dataclasses.fields(Recipe)}
    changes = {name: value for name, value in vars(arguments).items() if name in names}
    if "model_options" in changes:
        options = dict(recipe.model_options)
        for items in changes["model_options"]:
            options |= _parse_options(items)
        changes["model_options"] = options
    return recipe.replace(**changes)


def steps_per_epoch(source: Any, recipe: Recipe) -> int:
    """Return the steps of an epoch: those of the recipe, or the full batches of one pass.

    Args:
        source: The images: an `ImageSource` or an `ImageSet`.
        recipe: Gives the batch size and perhaps the steps.

    Returns:
        The number of steps, 1 or more.

    Raises:
        ValueError: If an epoch is one pass, and a batch is larger than the training set.
    """
    images = source.num_examples("train")
    if recipe.epoch_steps:
        return recipe.epoch_steps
    if recipe.batch_size > images:
        raise ValueError(
            f"A batch of {recipe.batch_size} is larger than the training set of {source.name!r}, "
            f"which has {images} images: set `batch_size` to {images} or less."
        )
    return images // recipe.batch_size


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return the preprocessing of a recipe's images for evaluation.

    Args:
        recipe: Gives the input size, the color statistics and the interpolation.

    Returns:
        The preprocessing.
    """
    return Preprocessing(
        input_size=recipe.input_size,
        mean=recipe.mean,
        std=recipe.std,
        crop_fraction=recipe.crop_fraction,
        interpolation=recipe.interpolation,
    )


def recipe_for(preprocessing: Preprocessing, **values: Any) -> Recipe:
    """Make a recipe from the preprocessing of its images, the inverse of `preprocessing_of`.

    Args:
        preprocessing: The preprocessing of the images.
        **values: Further values of the recipe.

    Returns:
        The recipe; its other values are the defaults.
    """
    return Recipe(**preprocessing.get_config(), channels=preprocessing.channels, **values)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say in which values two recipes, as dictionaries, differ: one line each."""
    return [
        f"{name}: {old.get(name)!r} then, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that decide what is trained, of a recipe or what has one in it."""
    return {
        name: decisive(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name not in UNDECISIVE
    }


def _known_fields(values: dict[str, Any]) -> dict[str, Any]:
    names = [each.name for each in dataclasses.fields(Recipe)]
    for name in values:
        if name not in names:
            hint = did_you_mean(name, names, quote="'")
            raise ValueError(f"Unknown value {name!r}.{hint}")
    return values


def fewest_micro_batches(batch_size: int, most: int, devices: int = 1) -> int:
    """Return the fewest equal parts of a batch that are small enough.

    Args:
        batch_size: Images of the batch, a multiple of the devices.
        most: Images that a part may have, as many as devices or more.
        devices: Devices that share a part evenly.

    Returns:
        The number of parts.
    """
    share, each = batch_size // devices, most // devices
    return next(
        parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= each
    )


def fixed_batch(recipe: Recipe) -> Recipe:
    """Return a recipe, whose batch must be a number.

    Raises:
        ValueError: If it is `"auto"`.
    """
    if recipe.batch_size == AUTO:
        raise ValueError(
            "`batch_size` must be a number here; only `python -m training.train` chooses it. "
            f"Received: {AUTO!r}"
        )
    return recipe


def _converted(name: str, value: Any, kind: Any) -> Any:
    """Convert a value to the type of its field: whole numbers to floats, lists to tuples."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"`{name}` must be a list of numbers. Received: {value!r}")
        return tuple(_converted(name, item, float) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    expected = typing.get_origin(kind) or kind
    if type(value) is not expected:
        raise ValueError(
            f"`{name}` must be of type {expected.__name__}. "
            f"Received: {value!r} (of type {type(value).__name__})"
        )
    return value


def _check_limits(each: dataclasses.Field, value: Any) -> None:
    limits = each.metadata
    if "choices" in limits and value not in limits["choices"]:
        allowed = ", ".join(repr(choice) for choice in limits["choices"])
        raise ValueError(f"`{each.name}` must be one of {allowed}. Received: {value!r}")
    bounds = {
        "minimum": ("at least", lambda number, bound: number >= bound),
        "maximum": ("at most", lambda number, bound: number <= bound),
        "above": ("above", lambda number, bound: number > bound),
        "below": ("below", lambda number, bound: number < bound),
    }
    numbers = value if isinstance(value, tuple) else (value,)
    for limit, (words, fits) in bounds.items():
        if limit in limits and not all(fits(number, limits[limit]) for number in numbers):
            raise ValueError(f"`{each.name}` must be {words} {limits[limit]}. Received: {value!r}")
    if math.inf in numbers:
        raise ValueError(f"`{each.name}` must be finite. Received: {value!r}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, (tuple, list)):
        return " ".join(str(item) for item in value) or "none"
    return str(value).replace("%", "%%") or "none"


def _argument_form(kind: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `add_argument` for a value of this type and limits."""
    choices = limits.get("choices")
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        return {"type": float, "nargs": "*", "metavar": "NUMBER"}
    if typing.get_origin(kind) is dict:
        # Given twice, as by a command that is lengthened, the second must not undo the first.
        return {"nargs": "+", "action": "append", "metavar": "NAME=VALUE"}
    if choices:
        return {"type": kind, "choices": choices}
    metavar = {int: "N", float: "NUMBER", str: "NAME"}[kind]
    if word := limits.get("word"):
        return {"type": _number_or(word), "metavar": f"{metavar}|{word}"}
    return {"type": kind, "metavar": metavar}


def _number_or(word: str) -> Callable[[str], int | str]:
    """Return the type of an argument that is a whole number or a word."""

    def number(text: str) -> int | str:
        if text == word:
            return word
        try:
            return int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be a whole number or {word!r}. Received: {text!r}"
            ) from None

    return number


def _parse_options(items: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(items))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            "`--model-options` takes NAME=VALUE with the value as in TOML: 0.1, true, or a string "
            f"in quotes. Received: {' '.join(items)}"
        ) from error
