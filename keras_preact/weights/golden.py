"""Outputs that others have published for the catalogue's entries on known images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """An image file with an address.

    Attributes:
        url: Its address.
        sha256: SHA-256 of the file, in hexadecimal digits.
    """

    url: str
    sha256: str


@dataclass(frozen=True)
class Golden:
    """Published outputs of a net for one image.

    Attributes:
        image: The image.
        stretched: Whether the whole image becomes a square of 224 pixels, by bicubic interpolation,
            instead of being prepared as the entry says.
        activation: Activation of the scores: `"softmax"`, or None for logits.
        scores: Published scores by number of the class.
        source: Page with them.
    """

    image: Image
    stretched: bool
    activation: str | None
    scores: dict[int, float]
    source: str


_ELEPHANT = Image(
    "https://raw.githubusercontent.com/hpcc-systems/GNN/master/Test/PretrainedModelTest/"
    "elephant.jpg",
    "4958b1960c5f86c9e5da34526232b1477a04ce6c5a68945564df74de485f991c",
)
_CATS = Image(
    "https://raw.githubusercontent.com/huggingface/transformers/"
    "d05a9215b4f311963e465b99753ac711fb828893/tests/fixtures/tests_samples/COCO/000000039769.png",
    "cf6f3c4befa148732c7453e0de5afab00f682427435fead2d88b07a9615cdac2",
)
_TESTS = "https://github.com/hpcc-systems/GNN/tree/master/Test/PretrainedModelTest"
_TRANSFORMERS = "https://github.com/huggingface/transformers/tree/main/tests/models"


def _elephant(african: float, indian: float, tusker: float) -> Golden:
    scores = {386: african, 385: indian, 101: tusker}
    return Golden(_ELEPHANT, True, "softmax", scores, _TESTS)


def _cats(page: str, *logits: float) -> Golden:
    return Golden(_CATS, False, None, dict(enumerate(logits)), f"{_TRANSFORMERS}/{page}")


# By name of the entry. The elephant's scores are those of an African one, an Indian one, a tusker.
GOLDEN = {
    "keras_applications/resnet50v2": _elephant(0.8566305637, 0.0006476990, 0.1427023411),
    "keras_applications/resnet101v2": _elephant(0.7400751710, 0.0004916753, 0.2594313323),
    "keras_applications/resnet152v2": _elephant(0.4274871051, 0.0000747280, 0.5724382401),
    "keras_applications/densenet121": _elephant(0.6140744090, 0.0049584489, 0.3809647560),
    "keras_applications/densenet169": _elephant(0.3347674012, 0.0060623339, 0.6590807438),
    "keras_applications/densenet201": _elephant(0.3531164825, 0.0156897195, 0.6310622692),
    "timm/resnetv2_50x1_bit.goog_in21k_ft_in1k": _cats("bit", -0.6526, -0.5263, -1.4398),
    "timm/vit_base_r50_s16_384.orig_in21k_ft_in1k": _cats("vit_hybrid", -1.9090, -0.4993, -0.2389),
}
