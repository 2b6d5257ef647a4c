"""Conversion of stacked units into separate ones, and back."""

from __future__ import annotations

import copy
import itertools

import keras

from keras_preact.blocks.nesting import check_separate_units, is_too_deep, walk_depth
from keras_preact.layer_names import parse, stack_name
from keras_preact.layers import Rematerialized, StackedUnits
from keras_preact.layers.stacked_units import TEMPLATE_PREFIX
from keras_preact.layers.unit_numbers import UNIT_NUMBERS
from keras_preact.named_weights import named_weights
from keras_preact.transforms.graph_config import (
    Config,
    consumers,
    functional_config,
    graphs,
    holds_training,
    inputs_of,
    output_names,
    rebuilt,
    redirected,
    renamed,
    source,
    tensor,
    tensors,
)

_NUMBER_INPUTS = {number.input for number in UNIT_NUMBERS.values()}


def unroll(model: keras.Model) -> keras.Model:
    """Build the same net with separate units in place of stacked ones.

    The units become layers of the net, or, where it is too deep for Keras to build so or
    rematerializes, nested models named `stage{s}_unit{u}`.

    Args:
        model: A functional model. One without stacked units is copied.

    Returns:
        A model with weights of its own, equal to `model`'s, not compiled.

    Raises:
        ValueError: If the model is not functional, or too deep for Keras to build unit by unit.
    """
    config = functional_config(model)
    # A stack says whether it trains to the layers called after it. A nested model does as well.
    nest = any(map(holds_training, config["layers"]))
    for _, graph in graphs(config):
        _unroll_graph(graph, nest)
    return rebuilt(model, config, named_weights(model))


def stack(model: keras.Model) -> keras.Model:
    """Build the same net with the identical units of each stage run as one loop.

    Args:
        model: A functional model whose units are named as `keras_preact.layer_names` says.

    Returns:
        A model with weights of its own, equal to `model`'s, not compiled.

    Raises:
        ValueError: If the model is not functional, has no three separate units in any stage, or
            units of a stage differ in more than their weights and their own numbers, such as drop
            path rates, have LoRA's matrices, or are used in a way that a stack cannot be, or there
            are calls with `training=True`.
    """
    config = functional_config(model)
    _check_training(model, config)
    if not sum(_stack_graph(graph) for _, graph in graphs(config)):
        raise ValueError(
            f"{model.name!r} has no stage with three or more separate units, named "
            "`stage{s}_unit{u}_…`, of which all but the first could be stacked."
        )
    return rebuilt(model, config, named_weights(model))


def _check_training(model: keras.Model, config: Config) -> None:
    trained = [layer["name"] for layer in config["layers"] if holds_training(layer)]
    if trained:
        raise ValueError(
            f"{model.name!r} has calls with `training=True`, of `{trained[0]}` or in it. Keras "
            "passes it on to the layers called next, but not through a stack."
        )


def _is(layer: Config, kind: type[keras.layers.Layer]) -> bool:
    return layer["registered_name"] == keras.saving.get_registered_name(kind)


def _set_layers(graph: Config, layers: list[Config], outputs: dict[str, str]) -> None:
    """Set the layers of a graph, in place.

    Args:
        graph: The graph.
        layers: Its new layers.
        outputs: By name of a layer that is not among them, the layer that replaces it.
    """
    for layer in layers:
        for each in tensors(layer["inbound_nodes"]):
            each["config"]["keras_history"][0] = outputs.get(source(each), source(each))
    graph["layers"] = layers
    graph["output_layers"] = redirected(graph["output_layers"], outputs)


# Unrolling.


def _unroll_graph(graph: Config, nest: bool) -> None:
    """Put separate units in the place of the stacks in a graph; `nest` makes models of them."""
    units = {name for layer in graph["layers"] for name in _units_in(layer)}
    check_separate_units(len(units))
    stacked = copy.deepcopy(graph)
    _separate(graph, nest)
    if is_too_deep(_walk_depth(graph)):
        graph.update(stacked)
        _separate(graph, nest=True)


def _separate(graph: Config, nest: bool) -> None:
    layers, outputs = [], {}
    for layer in graph["layers"]:
        if not _is(layer, StackedUnits):
            layers.append(layer)
            continue
        layers += _separate_units(layer, nest)
        outputs[layer["name"]] = layers[-1]["name"]
    _set_layers(graph, layers, outputs)


def _walk_depth(graph: Config) -> int:
    """Return the number of frames that Keras's walk through a graph takes at most."""
    layers = {layer["name"]: layer for layer in graph["layers"]}
    return walk_depth(
        output_names(graph["output_layers"]), lambda name: map(source, inputs_of(layers[name]))
    )


def _units_in(layer: Config) -> list[str]:
    """Return the names of the units that a layer stands for, or is a part of."""
    if _is(layer, StackedUnits):
        return layer["config"]["unit_names"]
    return [_unit_name([layer])] if parse(layer["name"]) else []


def _separate_units(layer: Config, nest: bool) -> list[Config]:
    """Return the layers, or nested models, that do the work of a stack."""
    config = layer["config"]
    values = {field: config[field] for field in UNIT_NUMBERS if config.get(field)}
    if len(layer["inbound_nodes"]) > 1:
        raise ValueError(
            f"`{layer['name']}` must be called once to be unrolled. Received: a model that calls "
            f"it {len(layer['inbound_nodes'])} times"
        )
    (x,) = tensors(layer["inbound_nodes"])
    nest = nest or config["rematerialize"]
    layers = []
    for index, name in enumerate(config["unit_names"]):
        numbers = {field: each[index] for field, each in values.items()}
        unit = _named(config["template"], name, numbers, config["trainable"])
        if nest:
            made = [_nested(config, unit, {**layer["inbound_nodes"][0], "args": [x]})]
        else:
            made = _spliced(unit["config"], x)
        layers += made
        x = tensor(made[-1]["name"], x)
    return layers


def _named(template: Config, name: str, numbers: dict[str, float], trainable: bool) -> Config:
    """Make a unit of a template, with numbers of its own in place of inputs."""
    prefix = f"{name}_"
    unit = copy.deepcopy(template)
    config = unit["config"]
    config["name"], config["trainable"] = name, trainable
    config["layers"] = renamed(
        [layer for layer in config["layers"] if layer["name"] not in _NUMBER_INPUTS],
        lambda each: prefix + each.removeprefix(TEMPLATE_PREFIX),
    )
    for layer in config["layers"]:
        layer["config"]["trainable"] = trainable and layer["config"].get("trainable", True)
        for field, value in numbers.items():
            number = UNIT_NUMBERS[field]
            if any(_is(layer, kind) for kind in number.layers):
                layer["config"][number.option] = value
                layer["inbound_nodes"][0]["kwargs"].pop(number.option)
    config["input_layers"] = [f"{prefix}input", 0, 0]
    config["output_layers"] = [
        prefix + config["output_layers"][0].removeprefix(TEMPLATE_PREFIX),
        *config["output_layers"][1:],
    ]
    return unit


def _nested(config: Config, unit: Config, call: Config) -> Config:
    if config["rematerialize"]:
        model = keras.saving.deserialize_keras_object(unit)
        dtype = keras.saving.deserialize_keras_object(config["dtype"])
        unit = keras.saving.serialize_keras_object(
            Rematerialized(model, trainable=model.trainable, dtype=dtype, name=model.name)
        )
    return {**unit, "name": unit["config"]["name"], "inbound_nodes": [call]}


def _spliced(unit: Config, x: Config) -> list[Config]:
    """Return the layers of a unit, fed by `x` instead of an input layer."""
    inputs = unit["input_layers"][0]
    layers = [layer for layer in unit["layers"] if layer["name"] != inputs]
    for layer in layers:
        layer.pop("build_config", None)
        for each in tensors(layer["inbound_nodes"]):
            if source(each) == inputs:
                each["config"] = x["config"]
    return copy.deepcopy(layers)


# Stacking.


def _stack_graph(graph: Config) -> int:
    """Put stacks in the place of the separate units in a graph; return the number of stacks."""
    stages = _stages(graph["layers"])
    first_layers = {units[0][0]["name"]: units for units in stages}
    inside = {layer["name"] for units in stages for unit in units for layer in unit}
    layers, outputs = [], {}
    for layer in graph["layers"]:
        if layer["name"] in first_layers:
            units = first_layers[layer["name"]]
            _check_alone(units, consumers(graph))
            layers.append(_stacked_layer(units))
            outputs[units[-1][-1]["name"]] = layers[-1]["name"]
        elif layer["name"] not in inside:
            layers.append(layer)
    _set_layers(graph, layers, outputs)
    return len(stages)


def _stages(layers: list[Config]) -> list[list[list[Config]]]:
    """Return, by stage, the layers of the units that may be stacked, where there are two or more.

    These are all units but the first, and but a last one that has the stage's stride.
    """
    stages: dict[tuple[str, int], dict[int, list[Config]]] = {}
    for layer in layers:
        name = parse(layer["name"])
        if name and name.last is None:
            units = stages.setdefault((name.prefix, name.stage), {})
            units.setdefault(name.unit, []).append(layer)
    others = (
        [unit for number, unit in sorted(units.items()) if number > 1 and _is_identity(unit)]
        for units in stages.values()
    )
    return [units for units in others if len(units) > 1]


def _is_identity(unit: list[Config]) -> bool:
    """Return whether the shortcut of a unit has no layers."""
    return not any(layer["name"].startswith(f"{_unit_name(unit)}_shortcut") for layer in unit)


def _check_alone(units: list[list[Config]], users: dict[str, list[Config]]) -> None:
    """Check that units are called once, and that only the next one needs what is inside of one.

    Raises:
        ValueError: If something else needs it, or a unit is called several times.
    """
    for unit in units:
        # A unit may share a layer with itself, as CBAM's attention does.
        times = min(len(layer["inbound_nodes"]) for layer in unit)
        if times > 1:
            raise ValueError(
                f"`{_unit_name(unit)}` is called {times} times. A stack calls its units once each."
            )
    for unit, following in itertools.pairwise(units):
        inside = {layer["name"] for layer in (*unit, *following)}
        for layer in unit:
            others = [user["name"] for user in users[layer["name"]] if user["name"] not in inside]
            if others:
                by = ", ".join(f"`{each}`" if each else "the model's outputs" for each in others)
                raise ValueError(
                    f"The output of `{layer['name']}` is needed outside of its unit, by {by}. A "
                    "stack has no outputs of single units."
                )


def _stacked_layer(units: list[list[Config]]) -> Config:
    names = [_unit_name(unit) for unit in units]
    flags = [_trainable(unit) for unit in units]
    if any(each != flags[0] for each in flags):
        raise ValueError(
            f"`{names[0]}` to `{names[-1]}` are not frozen alike. The units of a stack are frozen "
            "as one, whole or by layer: `keras_preact.transforms.freeze` does so by stage."
        )
    templates, numbers = zip(*(_template(unit) for unit in units), strict=True)
    for name, template in zip(names, templates, strict=True):
        if template != templates[0]:
            raise ValueError(
                f"`{name}` and `{names[0]}` differ in more than their weights and drop path rates "
                "or input scales, so they cannot be stacked."
            )
    layer = StackedUnits(
        keras.Model.from_config(copy.deepcopy(templates[0])),
        unit_names=names,
        **{field: [each[field] for each in numbers] for field in numbers[0]},
        rematerialize=_is(units[0][0], Rematerialized),
        trainable=any(flags[0].values()),
        dtype=keras.saving.deserialize_keras_object(templates[0]["layers"][-1]["config"]["dtype"]),
        name=stack_name(names),
    )
    serialized = keras.saving.serialize_keras_object(layer)
    x = _unit_input(units[0])
    return {**serialized, "name": layer.name, "inbound_nodes": [{"args": [x], "kwargs": {}}]}


def _trainable(unit: list[Config]) -> dict[str, bool]:
    """Return whether each layer of a unit trains, by its name in the unit."""
    prefix = f"{_unit_name(unit)}_"
    return {
        layer["name"].removeprefix(prefix): layer["config"]["trainable"]
        for layer in _unit_config(unit)["layers"]
        if "trainable" in layer["config"]  # not of an input layer
    }


def _template(unit: list[Config]) -> tuple[Config, dict[str, float]]:
    """Return a unit as a template, and its own numbers."""
    prefix = f"{_unit_name(unit)}_"
    config = _unit_config(unit)
    inputs, output = config["input_layers"][0], config["output_layers"][0]

    def rename(name: str) -> str:
        return TEMPLATE_PREFIX + name.removeprefix(prefix)

    layers, numbers = renamed(config["layers"], rename), {}
    for layer in layers:
        layer.pop("build_config", None)
        for field, number in UNIT_NUMBERS.items():
            if any(_is(layer, kind) for kind in number.layers):
                numbers[field] = layer["config"][number.option]
                layer["config"][number.option] = number.neutral
                scalar = _scalar(number.input)
                layer["inbound_nodes"][0]["kwargs"][number.option] = scalar
    numbers = {field: numbers[field] for field in UNIT_NUMBERS if field in numbers}
    names = [UNIT_NUMBERS[field].input for field in numbers]
    layers[1:1] = [_input_layer(name, [], "float32") for name in names]
    heads = [[rename(inputs), 0, 0], *([name, 0, 0] for name in names)]
    return {
        "name": "unit",
        "trainable": True,
        "layers": layers,
        "input_layers": heads if numbers else heads[0],
        "output_layers": [rename(output), 0, 0],
    }, numbers


def _unit_name(unit: list[Config]) -> str:
    name = parse(unit[0]["name"])
    # A unit begins with one of its own layers.
    assert name is not None
    return name.unit_name


def _unit_config(unit: list[Config]) -> Config:
    """Return a flat, nested or rematerialized unit as the configuration of a model."""
    if _is(unit[0], Rematerialized):
        return unit[0]["config"]["layer"]["config"]
    if "input_layers" in unit[0]["config"]:
        return unit[0]["config"]
    inputs = f"{_unit_name(unit)}_input"
    x = _unit_input(unit)["config"]
    # A stack takes maps of any height and width.
    shape = [size if axis == _channel_axis(unit) else None for axis, size in enumerate(x["shape"])]
    layers = copy.deepcopy(unit)
    names = {layer["name"] for layer in unit}
    for layer in layers:
        for each in tensors(layer["inbound_nodes"]):
            if source(each) not in names:
                each["config"]["keras_history"] = [inputs, 0, 0]
    return {
        "layers": [_input_layer(inputs, shape, x["dtype"]), *layers],
        "input_layers": [inputs, 0, 0],
        "output_layers": [layers[-1]["name"], 0, 0],
    }


def _channel_axis(unit: list[Config]) -> int:
    formats = [layer["config"].get("data_format") for layer in unit]
    return 1 if "channels_first" in formats else 3


def _unit_input(unit: list[Config]) -> Config:
    """Return the tensor that comes into a unit."""
    names = {layer["name"] for layer in unit}
    outside = [
        each
        for layer in unit
        for each in tensors(layer["inbound_nodes"])
        if source(each) not in names
    ]
    if len({source(each) for each in outside}) != 1:
        raise ValueError(
            f"`{_unit_name(unit)}` must take the output of one other layer. "
            f"Received: {sorted({source(each) for each in outside})}"
        )
    return outside[0]


def _input_layer(name: str, shape: list[int | None], dtype: str) -> Config:
    layer = keras.layers.InputLayer(batch_shape=tuple(shape), dtype=dtype, name=name)
    serialized = keras.saving.serialize_keras_object(layer)
    return {**serialized, "name": name, "inbound_nodes": []}


def _scalar(name: str) -> Config:
    config = {"shape": [], "dtype": "float32", "keras_history": [name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}
