"""Check of the catalogue against what its addresses send, for whoever has a network."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_preact.build import build
from keras_preact.files import replacing
from keras_preact.published import NETS
from keras_preact.weights.catalogue import Entry
from keras_preact.weights.download import cache_folder, cached_path
from keras_preact.weights.golden import GOLDEN, Golden, Image
from keras_preact.weights.loader import load_weights

# Largest difference of a published output. The same weights in float32 gave outputs within 1e-4 of
# other libraries' (`tests/parity`); the published ones have four decimals, or another decoder's
# pixels.
TOLERANCE = 2e-3
_STRETCHED = 224
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Verdict:
    """Result of the check of one entry.

    Attributes:
        name: Name of the entry.
        megabytes: Size of its file, in 10**6 bytes; None where its weights could not be loaded.
        hash: Whose hash the file was compared with: `"published"`, or `"server's"` for a row
            without one.
        golden: Largest difference from published outputs; None where there are none.
        error: What went wrong; empty where all is as published.
    """

    name: str
    megabytes: float | None = None
    hash: str = ""
    golden: float | None = None
    error: str = ""


def verify(entry: Entry) -> Verdict:
    """Download an entry, and check its file, its shapes and its published outputs.

    Args:
        entry: The entry. Nothing is downloaded that is in the cache.

    Returns:
        The verdict, also where something fails.
    """
    verdict = Verdict(entry.name, hash="published" if entry.hash else "server's")
    try:
        # The largest nets take gigabytes.
        keras.utils.clear_session()
        gc.collect()
        net = _net(entry)
        megabytes = cached_path(entry).stat().st_size / 1e6
        verdict = dataclasses.replace(verdict, megabytes=megabytes)
        if entry.name in GOLDEN:
            difference = _difference(net, entry, GOLDEN[entry.name])
            verdict = dataclasses.replace(verdict, golden=difference)
            if not difference <= TOLERANCE:
                source = GOLDEN[entry.name].source
                raise ValueError(f"the scores differ from {source} by {difference:.2g}")
    # Nothing that one entry's file, server or net does may hide the others.
    except Exception as error:
        return dataclasses.replace(verdict, error=f"{type(error).__name__}: {error}")
    return verdict


def _net(entry: Entry) -> keras.Model:
    """Build the net of an entry with its weights, which must have the net's shapes."""
    golden = GOLDEN.get(entry.name)
    size = _STRETCHED if golden and golden.stretched else entry.input_size
    published = NETS[entry.builder]
    net = build(
        published.architecture,
        include_top=entry.classes is not None,
        input_tensor=None,
        input_shape=(size, size, 3),
        pooling=None,
        classes=entry.classes or published.classes,
        classifier_activation=golden and golden.activation,
        name=published.model_name,
        data_format="channels_last",
    )
    load_weights(net, entry)
    return net


def _difference(net: keras.Model, entry: Entry, golden: Golden) -> float:
    """Return the largest difference between a net's outputs and the published ones."""
    path = _image(golden.image)
    prepare = _stretched if golden.stretched else entry.preprocessing.prepared
    images = entry.preprocessing.normalize(prepare(path)[np.newaxis])
    outputs = np.asarray(net.predict(images, verbose=0))[0]
    return max(abs(float(outputs[place]) - score) for place, score in golden.scores.items())


def _stretched(path: Path) -> np.ndarray:
    """Return a whole image as a square, `(224, 224, 3)`, by Pillow's default interpolation."""
    import PIL.Image

    with PIL.Image.open(path) as image:
        square = image.convert("RGB").resize((_STRETCHED, _STRETCHED))
    return np.asarray(square)


def _image(image: Image) -> Path:
    """Return the path of a golden image, downloaded unless it is there already."""
    path = cache_folder() / "golden" / image.url.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(image.url, timeout=_TIMEOUT_SECONDS) as response:
            content = response.read()
        with replacing(path) as partial:
            Path(partial).write_bytes(content)
    received = hashlib.sha256(path.read_bytes()).hexdigest()
    if received != image.sha256:
        raise ValueError(
            f"{str(path)!r}, of {image.url}, is not the published image: its SHA-256 is "
            f"{received}, not {image.sha256}. If it is damaged, delete it."
        )
    return path


def cells(verdict: Verdict) -> tuple[str, ...]:
    """Return a verdict as text: name, megabytes, hash, largest difference, error or "ok"."""
    return (
        verdict.name,
        "" if verdict.megabytes is None else f"{verdict.megabytes:.1f}",
        "" if verdict.megabytes is None else verdict.hash,
        "" if verdict.golden is None else f"{verdict.golden:.1e}",
        verdict.error or "ok",
    )
