"""Model card of a SavedModel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_preact.images.preprocessing import Preprocessing
from keras_preact.named_weights import named_weights, weights_bytes
from keras_preact.output_kinds import CLASSES, LABELS, LOGITS, VALUES
from keras_preact.serving.heads import Head
from keras_preact.version import __version__

# Entries that the caller may give. The others are known.
ABOUT = ("training", "metrics", "licence", "source")
_KINDS = {
    CLASSES: "one of {} classes, by probabilities that sum to 1 (softmax)",
    LABELS: "any of {} labels, each with a probability of its own (sigmoid)",
    LOGITS: "one of {} classes, by logits",
    VALUES: "numbers, of no classes",
}


def model_card(
    model: keras.Model,
    preprocessing: Preprocessing,
    heads: Sequence[Head],
    signatures: Mapping[str, Any],
    options: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Collect all that is known of an exported net, as JSON values.

    Args:
        model: The net, before folding.
        preprocessing: Preprocessing of its images.
        heads: Its outputs.
        signatures: The signatures by name, each a `tf.function`.
        options: How it was exported.
        about: Some of `ABOUT`, which the export cannot know.

    Returns:
        The card.
    """
    return {
        "model": model.name,
        "architecture": {
            "layers": sum(1 for _ in model._flatten_layers(include_self=False)),
            "parameters": model.count_params(),
            "input_shape": list(model.inputs[0].shape),
            "classes": len(heads[0].labels) or None if len(heads) == 1 else None,
        },
        "outputs": described(heads, options.get("threshold")),
        **{key: about.get(key) for key in ABOUT},
        "preprocessing": preprocessing.get_config(),
        "signatures": {name: _signature(function) for name, function in signatures.items()},
        "export": dict(options),
        "weights_sha256": _weights_hash(model),
        "keras_version": keras.__version__,
        "keras_preact_version": __version__,
    }


def described(heads: Sequence[Head], threshold: float | None = None) -> dict[str, dict[str, Any]]:
    """Return what the outputs say, by name, as JSON values.

    Args:
        heads: The outputs.
        threshold: Probability above which `classify` gives a label; None without that signature.

    Returns:
        For each its `kind`, the number of its `classes`, and a sentence, `says`; of several labels
        the `threshold` too.
    """
    found = {}
    for head in heads:
        count = len(head.labels)
        says = _KINDS[head.kind].format(count)
        found[head.name] = {"kind": head.kind, "classes": count or None, "says": says}
        if head.kind == LABELS and threshold is not None:
            found[head.name] |= {
                "says": f"{says}; `classify` gives those above {threshold}",
                "threshold": threshold,
            }
    return found


def memory_of_weights(served: keras.Model, freeze: bool) -> dict[str, Any]:
    """Return the entry `memory` of a card, as JSON values.

    Args:
        served: The net that is written.
        freeze: Whether its weights are constants.

    Returns:
        `weights_bytes`, and how often a server holds them, `held`.
    """
    held = "several times, as constants of each signature in use" if freeze else "once"
    return {"weights_bytes": weights_bytes(served), "held": held}


def add_memory(folder: Path, resident_bytes: Mapping[str, int]) -> None:
    """Write to a SavedModel's card how much memory it was measured to take.

    Args:
        folder: The SavedModel.
        resident_bytes: Resident memory beyond an empty process, by stage of serving.
    """
    file = folder / "assets.extra" / "model.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    card["memory"]["resident_bytes"] = dict(resident_bytes)
    for written in (file, file.with_name("README.md")):
        written.unlink()
    write_card(folder, card)


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write `model.json` and `README.md` to `assets.extra`, with the hashes of all other files.

    Args:
        folder: The SavedModel, complete but for its card.
        card: Result of `model_card`.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    card = {**card, "files_sha256": hashes}
    extra = folder / "assets.extra"
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (extra / "model.json").write_text(text, encoding="utf-8")
    (extra / "README.md").write_text(_markdown(card), encoding="utf-8")


def _signature(function: Any) -> dict[str, Any]:
    concrete = function.get_concrete_function()
    (spec,) = function.input_signature
    return {
        "inputs": {spec.name: _tensor(spec)},
        "outputs": {name: _tensor(each) for name, each in concrete.structured_outputs.items()},
    }


def _tensor(spec: Any) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": list(spec.shape)}


def _weights_hash(model: keras.Model) -> str:
    """Hash all weights by name. The hash is the same for every form of a net's units."""
    digest = hashlib.sha256()
    for name, arrays in sorted(named_weights(model).items()):
        for key, array in sorted(arrays.items()):
            digest.update(f"{name}/{key} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _markdown(card: Mapping[str, Any]) -> str:
    architecture, preprocessing = card["architecture"], card["preprocessing"]
    rows = [
        ("Parameters", f"{architecture['parameters']:,}"),
        ("Input", architecture["input_shape"]),
        ("Classes", architecture["classes"]),
        *((f"Output `{name}`", each["says"]) for name, each in card["outputs"].items()),
        ("Preprocessing", _line(preprocessing)),
        *((key.capitalize(), _line(card[key])) for key in ABOUT),
        ("Export", _line(card["export"])),
        ("Memory", _memory_line(card["memory"])),
        ("SHA-256 of the weights", card["weights_sha256"]),
        ("Versions", f"keras {card['keras_version']}, keras_preact {card['keras_preact_version']}"),
    ]
    lines = [f"# {card['model']}", "", *(f"- {name}: {value}" for name, value in rows), ""]
    lines += ["| signature | input | outputs |", "| --- | --- | --- |"]
    for name, signature in card["signatures"].items():
        inputs, outputs = (
            ", ".join(f"`{key}` {each['dtype']} {each['shape']}" for key, each in tensors.items())
            for tensors in (signature["inputs"], signature["outputs"])
        )
        lines.append(f"| `{name}` | {inputs} | {outputs} |")
    return "\n".join(lines) + "\n"


def _memory_line(memory: Mapping[str, Any]) -> str:
    line = f"weights of {memory['weights_bytes'] / 1e6:.1f} MB, held {memory['held']}"
    stages = [
        f"{stage} {size / 1e6:.0f} MB" for stage, size in memory.get("resident_bytes", {}).items()
    ]
    measured = ", ".join(stages) or "not measured"
    return f"{line}; resident memory beyond an empty process: {measured}"


def _line(value: Any) -> str:
    """Return a value of the card as a line of prose."""
    if value is None:
        return "not stated"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
