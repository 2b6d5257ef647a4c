"""Catalogue of the published weights of these nets.

There is one row per checkpoint. Those of `keras_preact/` ship with the package, in `data/`, each
with a model card (`python -m training.publish`). Published accuracies are in
`keras_preact.weights.figures`.

Hashes are those that the sources publish: MD5 in the code of keras.applications, SHA-256 on pages
of Hugging Face. Files of rows without one are checked against the hash that the server sends with
them (`keras_preact.weights.download`).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keras_preact.images.preprocessing import CIFAR10, IMAGENET, Preprocessing
from keras_preact.messages import did_you_mean
from keras_preact.weights.figures import Figure, published_figures

_IN1K = "ImageNet-1k"
_IN21K = "ImageNet-21k"
_IN21K_IN1K = "ImageNet-21k, then ImageNet-1k"
_DISTILLED = "ImageNet-1k, labeled by BiT-M R152x2"


@dataclass(frozen=True)
class Dataset:
    """A data set whose name `weights=` takes.

    Attributes:
        title: Its own name.
        classes: Number of its classes.
        preprocessing: Pixels that a net sees whose weights go by the name of the data set: those
            of `preprocess_input` with the same name.
    """

    title: str
    classes: int
    preprocessing: Preprocessing


DATASETS = {
    "imagenet": Dataset("ImageNet-1k", 1000, IMAGENET),
    "cifar10": Dataset("CIFAR-10", 10, CIFAR10),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published checkpoint.

    Attributes:
        name: The name that `weights=` takes: its source and the source's own name for it.
        builder: Name of the builder whose net it fits.
        url: Where the file is; None where it ships with the package.
        hash: `"sha256:…"` or `"md5:…"` of the file, where the source publishes one.
        licence: SPDX identifier.
        training_data: Data sets that it was trained on, in order.
        classes: Number of classes of its classifier; None where the file holds none.
        preprocessing: Preprocessing of the images, as its source sets it.
        reference: The paper, or the page of the source.
        revision: Number of the weights among those that have had this name, from 1 on.
    """

    name: str
    builder: str
    url: str | None
    hash: str | None = None
    licence: str = "Apache-2.0"
    training_data: str
    classes: int | None = 1000
    preprocessing: Preprocessing
    reference: str
    revision: int = 1

    @property
    def source(self) -> str:
        """Source of the checkpoint, which decides the format of the file."""
        return self.name.split("/")[0]

    @property
    def file_name(self) -> str:
        """Name of the file."""
        if self.url is None:
            return f"{self.name.split('/')[1]}.weights.h5"
        return self.url.rsplit("/", 1)[1]

    @property
    def input_size(self) -> int:
        """Height and width of the images of `preprocessing`, in pixels."""
        return self.preprocessing.input_size

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Published accuracies, one for each input size that one was measured at."""
        return published_figures(self.name)

    @property
    def best_figure(self) -> Figure | None:
        """The highest of the published accuracies; None where there is none."""
        return max(self.figures, key=lambda figure: figure.top1, default=None)

    @property
    def top1(self) -> float | None:
        """Highest published top-1 accuracy, in percent."""
        return self.best_figure and self.best_figure.top1

    @property
    def top1_size(self) -> int | None:
        """Input size that `top1` was measured at, in pixels."""
        return self.best_figure and self.best_figure.input_size


def _preprocessing(size: int, crop_fraction: float, interpolation: str) -> Preprocessing:
    """Return a preprocessing whose pixels are in -1..1."""
    return Preprocessing(
        input_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_fraction=crop_fraction,
        interpolation=interpolation,
    )


# As Hugging Face's pages of these files show them.
_SHA256 = {
    "timm/resnetv2_18.ra4_e3600_r224_in1k": (
        "8cbd1843d961f937eed89815af452c0dcc63f0bb5c54b60a4cd8ed5fc66ffb3e"
    ),
    "timm/resnetv2_34.ra4_e3600_r224_in1k": (
        "248e47c20c4e9b995099b5e39d8fb3396efd01d8b4befa2567eebcfa55ab5601"
    ),
    "timm/resnetv2_101x1_bit.goog_in21k": (
        "89c645b9480d6c72c3f95deefa67ab4e1c5ee3823f09af7fd68e27f6a9ab51d8"
    ),
    "timm/resnetv2_152x4_bit.goog_in21k": (
        "1fa545b0ee4ba4b10278857ea06ea1e2507a5fabd7b3f0f53ff149e36f66aad9"
    ),
    "keras_hub/resnet_v2_50_imagenet": (
        "07e053a7bb228d28b314fc9b141d7e60a82a4326154166407978f968a9ce2a7b"
    ),
}
# Checkpoint, builder, input size, crop fraction.
_TIMM = (
    ("resnetv2_18.ra4_e3600_r224_in1k", "PreActResNet18", 224, 0.9),
    ("resnetv2_18d.ra4_e3600_r224_in1k", "PreActResNet18d", 224, 0.9),
    ("resnetv2_34.ra4_e3600_r224_in1k", "PreActResNet34", 224, 0.9),
    ("resnetv2_34d.ra4_e3600_r224_in1k", "PreActResNet34d", 224, 0.9),
    ("resnetv2_34d.ra4_e3600_r384_in1k", "PreActResNet34d", 384, 1.0),
    ("resnetv2_50.a1h_in1k", "PreActResNet50", 224, 0.95),
    ("resnetv2_50d_gn.ah_in1k", "PreActResNet50d_GN", 224, 0.95),
    ("resnetv2_50d_evos.ah_in1k", "PreActResNet50d_EvoS", 224, 0.95),
    ("resnetv2_101.a1h_in1k", "PreActResNet101", 224, 0.95),
)
# Checkpoint, builder, input size, crop fraction. They see pixels of mean 0 and deviation 1.
_TIMM_STANDARDIZED = (
    ("nf_resnet50.ra2_in1k", "NFPreActResNet50", 256, 0.94),
    ("densenet121.ra_in1k", "PreActDenseNet121", 224, 0.875),
    ("densenet121.tv_in1k", "PreActDenseNet121", 224, 0.875),
    ("densenet169.tv_in1k", "PreActDenseNet169", 224, 0.875),
    ("densenet201.tv_in1k", "PreActDenseNet201", 224, 0.875),
)
# Checkpoint, builder, input size, crop fraction.
_TIMM_HYBRID = (
    ("vit_small_r26_s32_224.augreg_in21k_ft_in1k", "PreActViTHybrid_R26_S32", 224, 0.9),
    ("vit_small_r26_s32_384.augreg_in21k_ft_in1k", "PreActViTHybrid_R26_S32", 384, 1.0),
    ("vit_base_r50_s16_384.orig_in21k_ft_in1k", "PreActViTHybrid_R50_B16", 384, 1.0),
)
# Width, input size of the fine-tuning on ImageNet-1k.
_TIMM_BIT = (
    ("50x1", 448),
    ("50x3", 448),
    ("101x1", 448),
    ("101x3", 448),
    ("152x2", 448),
    ("152x4", 480),
)
# Checkpoint, width, input size, crop fraction, training data.
_TIMM_DISTILLATION = (
    ("goog_distilled_in1k", "50x1", 224, 0.875, _DISTILLED),
    ("goog_teacher_in21k_ft_in1k", "152x2", 224, 0.875, _IN21K_IN1K),
    ("goog_teacher_in21k_ft_in1k_384", "152x2", 384, 1.0, _IN21K_IN1K),
)
# Depth, MD5 of the file with the classifier and of the one without.
_KERAS_APPLICATIONS = (
    (50, "3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
    (101, "6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
    (152, "a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
)
# The same of DenseNets.
_KERAS_DENSENETS = (
    (121, "9d60b8095a5708f2dcce2bca79d332c7", "30ee3e1110167f948a6b9946edeeb738"),
    (169, "d699b8f76981ab1b30698df4c175e90b", "b8c4d4c20dd625c148057b9ff1c1176b"),
    (201, "1ceb130c1ea1b78c3bf6114dbdfd8807", "c13680b51ded0fb44dff2d8f86ac8bb1"),
)
_KERAS_HUB_DEPTHS = (50, 101)
# File, width, input size, crop fraction, classes, training data.
_BIT = tuple(
    row
    for width in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")
    for row in (
        (f"BiT-S-R{width}", width, 224, 0.875, 1000, _IN1K),
        (f"BiT-M-R{width}", width, 224, 0.875, 21843, _IN21K),
        (f"BiT-M-R{width}-ILSVRC2012", width, 480, 1.0, 1000, _IN21K_IN1K),
    )
)
# File, width, input size, crop fraction, training data.
_BIT_DISTILLATION = (
    ("R50x1_224", "50x1", 224, 0.875, _DISTILLED),
    ("R50x1_160", "50x1", 160, 0.875, _DISTILLED),
    ("R152x2_T_224", "152x2", 224, 0.875, _IN21K_IN1K),
    ("R152x2_T_384", "152x2", 384, 1.0, _IN21K_IN1K),
)

# Builder, revision, training data, SHA-256.
_SHIPPED = (
    (
        "PreActResNet20",
        2,
        "CIFAR-10",
        "340fd669d37b9004709d83ecab6380c70320c81777f0a35ecc1f93e6df4d102f",
    ),
    (
        "PreActResNet164",
        2,
        "CIFAR-10",
        "60e6026904dda78a6a6f6fd6abe6b9e64c70d1431ea134cf2ced8f8c06735491",
    ),
)

_BIT_PAPER = "https://arxiv.org/abs/1912.11370"
_DISTILLATION_PAPER = "https://arxiv.org/abs/2106.05237"
_BIT_FILES = "https://storage.googleapis.com/bit_models"
_KERAS_FILES = "https://storage.googleapis.com/tensorflow/keras-applications"


def _on_hugging_face(name: str, repository: str, file_name: str, **values: Any) -> Entry:
    sha256 = _SHA256.get(name)
    return Entry(
        name=name,
        url=f"https://huggingface.co/{repository}/resolve/main/{file_name}",
        hash=sha256 and f"sha256:{sha256}",
        **{"reference": f"https://huggingface.co/{repository}", **values},
    )


def _timm_entry(checkpoint: str, **values: Any) -> Entry:
    name = f"timm/{checkpoint}"
    return _on_hugging_face(name, name, "model.safetensors", **values)


def _timm() -> Iterator[Entry]:
    for table, training_data in ((_TIMM, _IN1K), (_TIMM_HYBRID, _IN21K_IN1K)):
        for checkpoint, builder, size, crop_fraction in table:
            yield _timm_entry(
                checkpoint,
                builder=builder,
                training_data=training_data,
                preprocessing=_preprocessing(size, crop_fraction, "bicubic"),
            )
    for checkpoint, builder, size, crop_fraction in _TIMM_STANDARDIZED:
        yield _timm_entry(
            checkpoint,
            builder=builder,
            training_data=_IN1K,
            preprocessing=Preprocessing(input_size=size, crop_fraction=crop_fraction),
        )
    for width, size in _TIMM_BIT:
        yield _timm_entry(
            f"resnetv2_{width}_bit.goog_in21k",
            builder=f"BiTResNet{width}",
            training_data=_IN21K,
            classes=21843,
            preprocessing=_preprocessing(224, 0.875, "bilinear"),
            reference=_BIT_PAPER,
        )
        yield _timm_entry(
            f"resnetv2_{width}_bit.goog_in21k_ft_in1k",
            builder=f"BiTResNet{width}",
            training_data=_IN21K_IN1K,
            preprocessing=_preprocessing(size, 1.0, "bilinear"),
            reference=_BIT_PAPER,
        )
    for tag, width, size, crop_fraction, training_data in _TIMM_DISTILLATION:
        yield _timm_entry(
            f"resnetv2_{width}_bit.{tag}",
            builder=f"BiTResNet{width}",
            training_data=training_data,
            preprocessing=_preprocessing(size, crop_fraction, "bicubic"),
            reference=_DISTILLATION_PAPER,
        )


def _keras_applications() -> Iterator[Entry]:
    # Keras publishes the scaling, and accuracies at these sizes. Crop and interpolation are those
    # that TF-slim, where the first of these weights come from, evaluates with.
    resnet = _preprocessing(299, 0.875, "bilinear")
    for depth, *hashes in _KERAS_APPLICATIONS:
        yield from _with_and_without_top(
            "resnet", f"resnet{depth}v2", hashes, builder=f"ResNet{depth}V2", preprocessing=resnet
        )
    densenet = Preprocessing(interpolation="bilinear")
    for depth, *hashes in _KERAS_DENSENETS:
        builder = f"PreActDenseNet{depth}"
        yield from _with_and_without_top(
            "densenet", f"densenet{depth}", hashes, builder=builder, preprocessing=densenet
        )


def _with_and_without_top(
    folder: str, name: str, hashes: Sequence[str], **values: Any
) -> Iterator[Entry]:
    """Yield the two entries of a net of keras.applications."""
    for suffix, md5, classes in zip(("", "_notop"), hashes, (1000, None), strict=True):
        file_name = f"{name}_weights_tf_dim_ordering_tf_kernels{suffix}.h5"
        yield Entry(
            name=f"keras_applications/{name}{suffix}",
            url=f"{_KERAS_FILES}/{folder}/{file_name}",
            hash=f"md5:{md5}",
            training_data=_IN1K,
            classes=classes,
            reference="https://keras.io/api/applications",
            **values,
        )


def _keras_hub() -> Iterator[Entry]:
    # Keras publishes its presets on Kaggle and, under the same names, on Hugging Face.
    for depth in _KERAS_HUB_DEPTHS:
        preset = f"resnet_v2_{depth}_imagenet"
        yield _on_hugging_face(
            f"keras_hub/{preset}",
            f"keras/{preset}",
            "task.weights.h5",
            builder=f"PreActResNet{depth}",
            training_data=_IN1K,
            preprocessing=_preprocessing(224, 1.0, "bicubic"),
        )


def _bit() -> Iterator[Entry]:
    for file, width, size, crop_fraction, classes, training_data in _BIT:
        yield Entry(
            name=f"bit/{file}",
            builder=f"BiTResNet{width}",
            url=f"{_BIT_FILES}/{file}.npz",
            training_data=training_data,
            classes=classes,
            preprocessing=_preprocessing(size, crop_fraction, "bilinear"),
            reference=_BIT_PAPER,
        )
    for file, width, size, crop_fraction, training_data in _BIT_DISTILLATION:
        yield Entry(
            name=f"bit/{file}",
            builder=f"BiTResNet{width}",
            url=f"{_BIT_FILES}/distill/{file}.npz",
            training_data=training_data,
            preprocessing=_preprocessing(size, crop_fraction, "bilinear"),
            reference=_DISTILLATION_PAPER,
        )


def _shipped() -> Iterator[Entry]:
    for builder, revision, training_data, sha256 in _SHIPPED:
        yield Entry(
            name=f"keras_preact/{builder.lower()}_cifar10",
            builder=builder,
            url=None,
            hash=f"sha256:{sha256}",
            training_data=training_data,
            revision=revision,
            classes=10,
            preprocessing=CIFAR10,
            reference="https://arxiv.org/abs/1603.05027",
        )


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for source in (_timm, _keras_applications, _keras_hub, _bit, _shipped)
    for entry in source()
}


def list_weights(architecture: str | Callable | None = None) -> list[Entry]:
    """List the published weights.

    Args:
        architecture: Only those of this net: a builder, its name, or a shell-style pattern of
            names, whatever the case. All of them by default.

    Returns:
        The entries, in the order of the catalogue.

    Raises:
        ValueError: If it is neither a name nor a builder.
    """
    pattern = "*" if architecture is None else getattr(architecture, "__name__", architecture)
    if not isinstance(pattern, str):
        raise ValueError(
            "`architecture` must be None, a builder, or a name or pattern of builders, such as "
            f'"PreActResNet50". Received: {architecture!r} (of type {type(architecture).__name__})'
        )
    return [
        entry
        for entry in CATALOGUE.values()
        if fnmatch.fnmatch(entry.builder.lower(), pattern.lower())
    ]


def matching(pattern: str) -> list[Entry]:
    """Return the entries of builders whose names fit a shell-style pattern.

    Raises:
        ValueError: If there are none.
    """
    entries = list_weights(pattern)
    if not entries:
        builders = ", ".join(dict.fromkeys(entry.builder for entry in list_weights()))
        raise ValueError(f"No weights are of a builder {pattern!r}. There are some of {builders}.")
    return entries


def find_entry(name: str) -> Entry:
    """Find the entry of a name.

    Args:
        name: Full name of an entry, such as `"timm/resnetv2_50.a1h_in1k"`.

    Returns:
        The entry.

    Raises:
        ValueError: If there is none.
    """
    if name not in CATALOGUE:
        hint = did_you_mean(name, CATALOGUE, quote="'")
        raise ValueError(f"The catalogue has no weights {name!r}.{hint}")
    return CATALOGUE[name]


def best_weights(builder: str, dataset: str) -> Entry | None:
    """Find the entry that `weights="imagenet"` or `"cifar10"` means for a builder.

    `preprocess_input` knows the data set, but not the net. So only weights count that see the
    pixels which it makes: those of timm's DenseNets and `nf_resnet50` see others, and go by their
    full names.

    Args:
        builder: Name of the builder.
        dataset: One of `DATASETS`.

    Returns:
        The entry that tells the data set's classes apart with the highest published top-1 accuracy;
        the first of the catalogue where none is published; None if the builder has no such entry.
    """
    expected = DATASETS[dataset]
    entries = [
        entry
        for entry in list_weights(builder)
        if entry.classes == expected.classes
        and entry.preprocessing.mean == expected.preprocessing.mean
        and entry.preprocessing.std == expected.preprocessing.std
    ]
    return max(entries, key=lambda entry: entry.top1 or 0, default=None)
