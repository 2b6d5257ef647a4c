"""`RecipeHyperModel`: the nets of a recipe, from a trial's values to the recipe of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_preact.messages import did_you_mean
from keras_preact.tuning import Constraints, PreActHyperModel, SearchSpace, read_space
from keras_preact.tuning.candidates import Values
from keras_preact.tuning.space import OPTIMIZER
from training.compiling import compile_for_training, trainable_model
from training.engines.callbacks.averaging import AveragedWeights
from training.net import build_net, recipe_architecture
from training.recipe import Recipe

SPACES = Path(__file__).parent.parent / "spaces"


class RecipeHyperModel(PreActHyperModel):
    """The nets of a recipe that a search space holds.

    Its models begin with new weights and are compiled with the recipe's schedule, optimizer and
    loss. `fit` evaluates the average of `ema_momentum`. Batches, epochs and callbacks are those
    that a tuner's `search` is given: `patience` of the recipe ends nothing.

    Args:
        recipe: Values that all trials share. The default of a hyperparameter is the recipe's
            value where that is among the space's, or the first.
        space: Values that vary.
        classes: Number of classes.
        steps_per_epoch: Steps of one epoch, which the learning rate's schedule counts; needed only
            where models are built.
        constraints: Limits on the nets; none by default.

    Raises:
        ValueError: If the space does not fit the recipe, or nothing in it keeps to the limits.
    """

    def __init__(
        self,
        recipe: Recipe,
        space: SearchSpace,
        classes: int,
        steps_per_epoch: int | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        self.base = recipe
        self.classes = classes
        self.steps_per_epoch = steps_per_epoch
        _check_none(recipe, space)
        super().__init__(
            recipe_architecture(recipe),
            space,
            input_shape=(recipe.input_size, recipe.input_size, recipe.channels),
            classes=classes,
            constraints=constraints,
            compile=self._compile_for_training,
        )

    def recipe(self, values: Values) -> Recipe:
        """Return the recipe of a trial, which `python -m training.train` reads from a file.

        Args:
            values: The hyperparameters.

        Returns:
            The base recipe with the trial's `model_options` and values of the optimizer.
        """
        fields = self.candidates.fields(values)
        options = {**self.base.model_options, **fields}
        for name, value in fields.items():
            if value is None:
                # The builder's own value, then: TOML has no null.
                del options[name]
        optimizer = {name: values[name] for name in OPTIMIZER if getattr(self.space, name)}
        return self.base.replace(model_options=options, **optimizer)

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *args: Any,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train a trial's model, which is evaluated with the average of its weights, if it has one.

        The model goes on with the weights themselves, and so do the files of a tuner: what
        `get_best_models` returns is the average within `averaging.averaged_weights(model)`.

        Args:
            hp: The hyperparameters.
            model: From `build`.
            *args: Further arguments of `model.fit`.
            callbacks: Callbacks for `model.fit`.
            **kwargs: Further arguments of `model.fit`.

        Returns:
            The history of `model.fit`.
        """
        # A second one would take the average for the weights to go on with.
        others = [each for each in callbacks or () if not isinstance(each, AveragedWeights)]
        return super().fit(hp, model, *args, callbacks=[AveragedWeights(), *others], **kwargs)

    def net(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build a trial's net, not compiled."""
        recipe = self.recipe(hp.values)
        return trainable_model(build_net(recipe, self.classes), recipe)

    def _compile_for_training(self, model: keras.Model, hp: keras_tuner.HyperParameters) -> None:
        """Compile a model as the command does, for one-hot labels."""
        if self.steps_per_epoch is None:
            raise ValueError(
                "`steps_per_epoch` must be a number where models are built, since the learning "
                "rate follows a schedule. Received: None"
            )
        if self.base.init:
            raise ValueError(
                "`init` of the recipe must be empty where models are built, which begin with new "
                f"weights; `training.tune` reads them. Received: {self.base.init!r}"
            )
        compile_for_training(model, self.recipe(hp.values), self.steps_per_epoch, model)

    def _default(self, name: str) -> float:
        return getattr(self.base, name)


def load_space(name_or_path: str | Path) -> SearchSpace:
    """Read a search space.

    Args:
        name_or_path: Name of a file in `training/spaces`, without its ending, or the path of any
            TOML file. Its keys are the arguments of `SearchSpace`.

    Returns:
        The space, checked.

    Raises:
        FileNotFoundError: If there is no such space.
        ValueError: If the file is not TOML, or has an unknown key or a value out of its range.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = SPACES / f"{name_or_path}.toml"
    if not path.is_file():
        known = sorted(each.stem for each in SPACES.glob("*.toml"))
        hint = did_you_mean(path.stem, known, quote="'")
        raise FileNotFoundError(
            f"No search space {str(name_or_path)!r}.{hint} "
            f"The spaces are {', '.join(known)}; any other is given by the path of its .toml file."
        )
    return read_space(path)


def _check_none(recipe: Recipe, space: SearchSpace) -> None:
    builder: Any = recipe_architecture(recipe.replace(model_options={}))
    for name, values in space.choices.items():
        own = getattr(builder, name)
        if None in values and own is not None:
            raise ValueError(
                f"`choices.{name}` must not hold none: a recipe file cannot say that of a "
                f"{recipe.model}, whose own value is {own!r}."
            )
