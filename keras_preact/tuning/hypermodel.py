"""`PreActHyperModel`: the nets of a search space, for any tuner of KerasTuner's."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner

from keras_preact.applications import BUILDERS, Builder, PreActResNet
from keras_preact.architecture import RULES, Architecture
from keras_preact.loss_scaling import with_loss_scaling
from keras_preact.messages import did_you_mean
from keras_preact.parameter_groups import decayed_variables
from keras_preact.spec.rules import POSITIVE_INTEGER, plain
from keras_preact.tuning.candidates import Candidates, declare
from keras_preact.tuning.constraints import Constraints
from keras_preact.tuning.space import OPTIMIZER, SearchSpace

# Those of arXiv:1603.05027, where the space does not let them vary. The momentum there multiplies
# the penalty's gradient by 10 in all, as it does the loss's; Keras subtracts the decay by itself.
_DEFAULTS = {"learning_rate": 0.1, "weight_decay": 1e-3}

# Arguments of builders that may be given further, and those of them that costs depend on.
_COSTED = ("include_top", "pooling", "data_format", "dtype")
_OPTIONS = (*_COSTED, "weights", "classifier_activation")
# Others, and what to give instead.
_NO_OPTIONS = {
    "architecture": "give it as `net`",
    "input_tensor": "give its shape as `input_shape`",
    **dict.fromkeys(RULES, "it belongs to `net`: give `net.architecture.replace(…)` as `net`"),
}

Compile = Callable[[keras.Model, keras_tuner.HyperParameters], None]


class PreActHyperModel(keras_tuner.HyperModel):
    """The nets of a search space, within limits, from a trial's values to a compiled model.

    Every tuner of KerasTuner's takes it. None proposes a net beyond the limits as long as these
    are filled; a trial whose values do not fit one another fails, and KerasTuner goes on. The
    oracles of `make_oracle` propose no such values, and each net once.

    The widths that fill a budget follow from a trial's values:
    `candidates.architecture(hp.values).channels`. Under `max_latency` another process measures
    other widths; the oracles of `make_oracle` record with a trial those that it has.

    Args:
        net: A builder, such as `PreActResNet20`, or an `Architecture`: all that does not vary.
        space: Fields that vary.
        input_shape: Shape of an image, as builders take it; by default the net's own.
        classes: Number of classes.
        constraints: Limits on the nets; none by default.
        compile: Compiles a model, given that and the hyperparameters. By default for labels that
            are integers: SGD with Nesterov's momentum of 0.9, the space's `learning_rate` (else
            0.1) and `weight_decay` (else 1e-3, of kernels only), and the metric `accuracy`. The
            loss is the cross-entropy, of two classes with `classes=1`, whose output is a sigmoid.
            It is scaled where the nets compute in float16, as with `dtype="mixed_float16"`.
        name: Name of the hypermodel.
        tunable: See `keras_tuner.HyperModel`.
        **options: Further arguments of the builder, such as `dtype`.

    Raises:
        ValueError: If an argument is of another kind, the space does not fit the net, or nothing in
            it keeps to the limits.
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
        architecture = _architecture(net)
        _check_kinds(space, constraints, compile)
        _check_options(options)
        classes = POSITIVE_INTEGER.check("classes", classes)
        activation = "softmax" if classes > 1 else "sigmoid"
        self._arguments = {
            **{"weights": None, "input_shape": input_shape, "classes": classes},
            **{"classifier_activation": activation},
            **options,
        }
        self._compile = compile or self._compile_for_labels
        if compile is None:
            self._check_default_loss(activation)
        self.space = space
        costed = {name: options[name] for name in _COSTED if name in options}
        self.candidates = Candidates(
            architecture, space, input_shape, classes, constraints, **costed
        )
        self.candidates.check()

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

    def description(self) -> dict[str, Any]:
        """Return what decides, by name, which net and training a trial's values stand for.

        Returns:
            Values that JSON can hold.
        """
        space = self.hyperparameters().get_config()["space"]
        values = {each["config"]["name"]: each["config"].get("values") for each in space}
        return plain({**self.candidates.description(), **values})

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

    def _check_default_loss(self, expected: str) -> None:
        """Check that the output is what the default loss takes.

        Args:
            expected: The activation that it takes, unless it takes logits.

        Raises:
            ValueError: If it is not.
        """
        classes, received = (self._arguments[name] for name in ("classes", "classifier_activation"))
        if not self._arguments.get("include_top", True):
            received = "no top"
        if received not in (expected, None):
            raise ValueError(
                f"The default loss is for {classes} outputs that end in {expected!r}, or logits. "
                "Give `compile`, a function of the model and the hyperparameters that calls "
                f"`model.compile`. Received: {received!r}"
            )

    def _compile_for_labels(self, model: keras.Model, hp: keras_tuner.HyperParameters) -> None:
        values = {name: hp.values.get(name, default) for name, default in _DEFAULTS.items()}
        optimizer = keras.optimizers.SGD(**values, momentum=0.9, nesterov=True)
        decayed = {id(variable) for variable in decayed_variables(model)}
        optimizer.exclude_from_weight_decay(
            [each for each in model.trainable_variables if id(each) not in decayed]
        )
        logits = self._arguments["classifier_activation"] is None
        if self._arguments["classes"] > 1:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
            accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
        else:
            loss = keras.losses.BinaryCrossentropy(from_logits=logits)
            accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if logits else 0.5)
        model.compile(with_loss_scaling(optimizer, model), loss, metrics=[accuracy])
        # TensorFlow traces a step again that has made variables.
        model.optimizer.build(model.trainable_variables)


def _architecture(net: Any) -> Architecture:
    """Return the architecture of a builder, or one that was given itself."""
    architecture = net if isinstance(net, Architecture) else getattr(net, "architecture", None)
    if isinstance(architecture, Architecture):
        return architecture
    hint = did_you_mean(net, BUILDERS) if isinstance(net, str) else ""
    raise ValueError(
        "`net` must be a builder, such as the function `keras_preact.PreActResNet20` itself, or an "
        f"`Architecture`.{hint} Received: {net!r} (of type {type(net).__name__})"
    )


def _check_kinds(space: Any, constraints: Any, compile: Any) -> None:
    """Check that arguments are objects of the package, and no values to make them of."""
    if not isinstance(space, SearchSpace):
        hint = ""
        if isinstance(space, Mapping):
            hint = " Give `SearchSpace(**space)`."
        elif isinstance(space, str | os.PathLike):
            hint = " Give `read_space(path)`."
        raise ValueError(f"`space` must be a `SearchSpace`.{hint} Received: {space!r}")
    if not isinstance(constraints, Constraints | None):
        hint = " Give `Constraints(**constraints)`." if isinstance(constraints, Mapping) else ""
        raise ValueError(
            f"`constraints` must be `Constraints` or None.{hint} Received: {constraints!r}"
        )
    if compile is not None and not callable(compile):
        raise ValueError(
            "`compile` must be a function of the model and the hyperparameters, which calls "
            f"`model.compile`. Received: {compile!r}"
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Check the names of the builder's arguments."""
    for name in options:
        if name in _NO_OPTIONS:
            raise ValueError(f"`{name}` is no option of a search: {_NO_OPTIONS[name]}.")
        if name not in _OPTIONS:
            known = [*inspect.signature(PreActHyperModel).parameters, *_OPTIONS]
            raise ValueError(
                f"`PreActHyperModel()` has no argument `{name}`.{did_you_mean(name, known)} "
                f"Further arguments of the builder may be {', '.join(_OPTIONS)}."
            )
