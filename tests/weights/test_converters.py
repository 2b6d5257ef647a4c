"""The converters: Big Transfer's own files against timm's reader, and what is refused."""

from __future__ import annotations

from functools import partial

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

import keras_preact
from keras_preact.weights import set_named_weights
from keras_preact.weights.converters import CONVERTERS

UNITS = (1, 2, 1, 1)


def _bit_arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random weights of a small BiT net, by the names of the published files."""
    arrays = {
        "root_block/standardized_conv2d/kernel": rng.standard_normal((7, 7, 3, 64)),
        "group_norm/gamma": rng.uniform(0.5, 1.5, 2048),
        "group_norm/beta": rng.uniform(-0.5, 0.5, 2048),
        "head/conv2d/kernel": rng.standard_normal((1, 1, 2048, 5)),
        "head/conv2d/bias": rng.standard_normal(5),
    }
    before = 64
    for block, (count, channels) in enumerate(zip(UNITS, (256, 512, 1024, 2048), strict=True), 1):
        for unit in range(1, count + 1):
            inside = channels // 4
            prefix = f"block{block}/unit{unit:02d}"
            for conv, size, cin, cout in (
                ("a", 1, before, inside),
                ("b", 3, inside, inside),
                ("c", 1, inside, channels),
            ):
                kernel = rng.standard_normal((size, size, cin, cout))
                arrays[f"{prefix}/{conv}/standardized_conv2d/kernel"] = kernel
                arrays[f"{prefix}/{conv}/group_norm/gamma"] = rng.uniform(0.5, 1.5, cin)
                arrays[f"{prefix}/{conv}/group_norm/beta"] = rng.uniform(-0.5, 0.5, cin)
            if unit == 1:
                kernel = rng.standard_normal((1, 1, before, channels))
                arrays[f"{prefix}/a/proj/standardized_conv2d/kernel"] = kernel
            before = channels
    return {f"resnet/{name}": array.astype("float32") for name, array in arrays.items()}


def test_bit_files_are_read_as_timm_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "BiT.npz"
    np.savez(path, **_bit_arrays(rng))
    theirs = ResNetV2(
        UNITS, stem_type="fixed", conv_layer=partial(StdConv2d, eps=1e-8), num_classes=5
    ).eval()
    with torch.no_grad():
        theirs.load_pretrained(str(path))
    ours = keras_preact.BiTResNet50x1(
        weights=None, input_shape=(64, 64, 3), classes=5, classifier_activation=None, units=UNITS
    )
    set_named_weights(ours, CONVERTERS["bit"](path))
    x = rng.standard_normal((2, 64, 64, 3)).astype("float32")
    with torch.inference_mode():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(ours(x)) / scale, expected / scale, atol=1e-4)


def _save(arrays: dict[str, np.ndarray], path: str, source: str) -> None:
    if source == "timm":
        save_file(arrays, path)
    elif source == "bit":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                group = file.create_group(f"layers/{name.rpartition('/')[0]}/vars")
                group.attrs["name"] = name.rpartition("/")[0]
                group["0"] = array


SUFFIXES = {"timm": ".safetensors", "bit": ".npz", "keras_applications": ".h5", "keras_hub": ".h5"}


@pytest.mark.parametrize(("source", "suffix"), SUFFIXES.items())
def test_a_stray_name_is_named(source, suffix, tmp_path):
    path = f"{tmp_path}/file{suffix}"
    _save({"fc1/kernel": np.ones((2, 2), "float32")}, path, source)
    with pytest.raises(ValueError, match=r"holds 'fc1.*which no net of this package has"):
        CONVERTERS[source](path)


@pytest.mark.parametrize(("source", "suffix"), SUFFIXES.items())
@pytest.mark.parametrize("content", [b"", b"not such a file at all", b"PK\x03\x04"])
def test_a_damaged_file_is_named(source, suffix, content, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"file{suffix}"):
        CONVERTERS[source](path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"norm.weight": np.ones(2048, "float32")}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        CONVERTERS["timm"](path)


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "file.npz"
    np.savez(path, **{"resnet/group_norm/gamma": np.array([object()])})
    with pytest.raises(ValueError, match=r"file.npz"):
        CONVERTERS["bit"](path)
