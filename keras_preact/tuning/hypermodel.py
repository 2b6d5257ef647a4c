"""`PreActHyperModel`: the nets of a search space, for any tuner of KerasTuner's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_tuner

from keras_preact.applications import Builder, PreActResNet
from keras_preact.architecture import Architecture
from keras_preact.parameter_groups import decayed_variables
from keras_preact.tuning.candidates import Candidates, declare
from keras_preact.tuning.constraints import Constraints
from keras_preact.tuning.space import OPTIMIZER, SearchSpace

# Those of arXiv:1603.05027, where the space does not let them vary. The momentum there multiplies
# the penalty's gradient by 10 in all, as it does the loss's; Keras subtracts the decay by itself.
_DEFAULTS = {"learning_rate": 0.1, "weight_decay": 1e-3}

Compile = Callable[[keras.Model, keras_tuner.HyperParameters], None]


class PreActHyperModel(keras_tuner.HyperModel):
    """The nets of a search space, within limits, from a trial's values to a compiled model.

    Every tuner of KerasTuner's takes it. None proposes a net beyond the limits as long as these
    are filled; a trial whose values do not fit one another fails, and KerasTuner goes on. The
    oracles of `make_oracle` propose no such values, and each net once.

    Args:
        net: A builder, such as `PreActResNet20`, or an `Architecture`: all that does not vary.
        space: Fields that vary.
        input_shape: Shape of an image, as builders take it; by default the net's own.
        classes: Number of classes.
        constraints: Limits on the nets; none by default.
        compile: Compiles a model, given that and the hyperparameters. By default for labels that
            are integers: SGD with Nesterov's momentum of 0.9, the space's `learning_rate` (else
            0.1) and `weight_decay` (else 1e-3, of kernels only), and the metric `accuracy`.
        name: Name of the hypermodel.
        tunable: See `keras_tuner.HyperModel`.
        **options: Further arguments of the builder, such as `dtype`.

    Raises:
        ValueError: If the space does not fit the net, or nothing in it keeps to the limits.
    """

    def __init__(
        self,
        net: Builder | Architecture,
        space: SearchSpace,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int = 1000,
        constraints: Constraints | None = None,
        compile: Compile | None = None,
        name: str = "preact_resnet",
        tunable: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(name, tunable)
        architecture = net if isinstance(net, Architecture) else net.architecture
        self.space = space
        self.candidates = Candidates(architecture, space, input_shape, classes, constraints)
        self.candidates.check()
        self._compile = compile or _compile
        self._arguments = {
            **{"weights": None, "input_shape": input_shape, "classes": classes},
            **options,
        }

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Register every hyperparameter.

        Args:
            hp: Hyperparameters to add them to, unless they are there already.
        """
        self.candidates.declare(hp)
        for name in OPTIMIZER:
            if values := getattr(self.space, name):
                declare(hp, name, values, self._default(name))

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Return all hyperparameters, with their defaults."""
        hp = keras_tuner.HyperParameters()
        self.declare_hyperparameters(hp)
        return hp

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build a trial's model.

        Args:
            hp: The hyperparameters. Where a budget is filled, the widths follow from them.

        Returns:
            A compiled model from images to probabilities.

        Raises:
            keras_tuner.errors.FailedTrialError: If the values do not fit one another, or their net
                is beyond the limits.
        """
        self.declare_hyperparameters(hp)
        try:
            self.candidates.check_limits(hp.values)
            model = self.net(hp)
        except ValueError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        self._compile(model, hp)
        return model

    def net(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build a trial's net, not compiled.

        Args:
            hp: The hyperparameters.

        Raises:
            ValueError: If the values do not fit one another.
        """
        return PreActResNet(self.candidates.architecture(hp.values), **self._arguments)

    def _default(self, name: str) -> float:
        """Return the value of the optimizer that stands where the space has no other default."""
        return _DEFAULTS[name]


def _compile(model: keras.Model, hp: keras_tuner.HyperParameters) -> None:
    values = {name: hp.values.get(name, default) for name, default in _DEFAULTS.items()}
    optimizer = keras.optimizers.SGD(**values, momentum=0.9, nesterov=True)
    decayed = {id(variable) for variable in decayed_variables(model)}
    optimizer.exclude_from_weight_decay(
        [each for each in model.trainable_variables if id(each) not in decayed]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
