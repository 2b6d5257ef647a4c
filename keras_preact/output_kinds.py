"""What the outputs of a model say: one class of several, several labels, or other numbers."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_preact.tensor import Tensor

# Probabilities that sum to 1, of a softmax: one class is right.
CLASSES = "classes"
# Probabilities of their own, of a sigmoid each: any number of labels is right.
LABELS = "labels"
# Scores of classes before an activation: the largest belongs to the likeliest.
LOGITS = "logits"
# Other numbers, such as an embedding: they tell no classes apart.
VALUES = "values"

_PROBABILITIES = {"softmax": CLASSES, "sigmoid": LABELS}
# The classifier of this package's nets; another dense layer without an activation may be any other.
_CLASSIFIER = "predictions"


def output_kind(output: Tensor, named: bool = False) -> str | None:
    """Tell from the layers before an output of a model what its numbers say.

    Args:
        output: One of a functional model's `outputs`.
        named: Whether its numbers are known to be scores of classes.

    Returns:
        `CLASSES`, `LABELS`, `LOGITS` or `VALUES`; None where the layers do not tell.
    """
    if len(output.shape) != 2:
        return VALUES
    activation, layer = _end(output)
    if activation == "linear":
        return LOGITS if named or layer == _CLASSIFIER else VALUES
    return _PROBABILITIES.get(activation)


def check_class_names(class_names: Sequence[str], output: Tensor) -> None:
    """Check that names can stand for the classes of an output.

    Args:
        class_names: The names.
        output: The output, `(batch, classes)`.

    Raises:
        ValueError: If there are more or fewer than classes, or one is not a line of text.
    """
    classes = output.shape[-1]
    if len(class_names) != classes:
        raise ValueError(
            f"`class_names` must have one name for each of the model's {classes} classes. "
            f"Received: {len(class_names)} names"
        )
    for name in class_names:
        # A name that ends in a line break would be two lines of a file of labels.
        if not isinstance(name, str) or name.splitlines() != [name]:
            raise ValueError(f"Each of `class_names` must be one line of text. Received: {name!r}")


def _end(tensor: Tensor) -> tuple[str, str]:
    """Return the activation that gives a tensor and the name of its layer; `""` for no known one.

    A dense layer or a convolution without an activation has the linear one.
    """
    operation, node, place = tensor._keras_history
    if isinstance(operation, keras.Model):
        # Only its own code says what a subclassed model does.
        known = hasattr(operation, "outputs")
        return _end(operation.outputs[place]) if known else ("", operation.name)
    inputs = operation._inbound_nodes[node].input_tensors
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    if isinstance(operation, keras.layers.Activation) and activation == "linear":
        return _end(inputs[0])
    if isinstance(operation, keras.layers.Average):
        # Means of probabilities are probabilities, and those of classifiers' logits are logits.
        ends = [_end(each) for each in inputs]
        if len({activation for activation, _ in ends}) > 1:
            return "", operation.name
        of_classifiers = all(layer == _CLASSIFIER for _, layer in ends)
        return ends[0][0], _CLASSIFIER if of_classifiers else operation.name
    # `keras.layers.Softmax`, and `keras.ops.softmax` and `sigmoid`, are their own activation.
    return activation or type(operation).__name__.lower(), operation.name
