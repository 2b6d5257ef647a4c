"""Published accuracies of the catalogue's entries, each with its input size and its source.

Accuracies are those of ImageNet-1k's 50,000 validation images, of one view of each; those of the
shipped nets are of CIFAR-10's test images. The same weights do better, or worse, at another input
size, so that no figure means anything without its own.
"""

from __future__ import annotations

from dataclasses import dataclass

_TIMM_RESULTS = (
    "https://github.com/huggingface/pytorch-image-models/blob/"
    "aa4b5850c1543fa488abf260f18390eda46cf85d/results/results-imagenet.csv"
)
_KERAS_APPLICATIONS = "https://github.com/keras-team/keras-applications/blob/bc89834/README.md"
_CLASSIFICATION_MODELS = "https://github.com/qubvel/classification_models/blob/master/README.md"
_BIG_TRANSFER = "https://github.com/google-research/big_transfer/blob/master/README.md"


@dataclass(frozen=True)
class Figure:
    """One published accuracy of a checkpoint.

    Attributes:
        input_size: Height and width of the images that the net saw, in pixels.
        crop_fraction: Share of the resized image's shorter side that it saw; None where the source
            does not say.
        top1: Top-1 accuracy, in percent.
        top5: Top-5 accuracy, in percent, where it was published.
        source: Page with the figure.
    """

    input_size: int
    crop_fraction: float | None
    top1: float
    top5: float | None
    source: str


# Checkpoint, input size, crop fraction, top-1, top-5.
_TIMM = (
    ("densenet121.ra_in1k", 224, 0.875, 75.574, 92.648),
    ("densenet121.ra_in1k", 288, 0.95, 76.486, 93.378),
    ("densenet121.tv_in1k", 224, 0.875, 74.75, 92.158),
    ("densenet169.tv_in1k", 224, 0.875, 75.922, 92.976),
    ("densenet201.tv_in1k", 224, 0.875, 77.284, 93.48),
    ("nf_resnet50.ra2_in1k", 256, 0.94, 80.236, 95.104),
    ("nf_resnet50.ra2_in1k", 288, 0.94, 80.658, 95.35),
    ("vit_base_r50_s16_384.orig_in21k_ft_in1k", 384, 1.0, 84.988, 97.296),
    ("vit_small_r26_s32_224.augreg_in21k_ft_in1k", 224, 0.9, 81.856, 96.038),
    ("vit_small_r26_s32_384.augreg_in21k_ft_in1k", 384, 1.0, 84.066, 97.31),
    ("resnetv2_101.a1h_in1k", 224, 0.95, 82.042, 95.866),
    ("resnetv2_101.a1h_in1k", 288, 1.0, 83.002, 96.444),
    ("resnetv2_101x1_bit.goog_in21k_ft_in1k", 448, 1.0, 82.332, 96.524),
    ("resnetv2_101x3_bit.goog_in21k_ft_in1k", 448, 1.0, 84.43, 97.38),
    ("resnetv2_152x2_bit.goog_in21k_ft_in1k", 448, 1.0, 84.468, 97.432),
    ("resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k", 224, 0.875, 82.918, 96.568),
    ("resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384", 384, 1.0, 83.858, 97.13),
    ("resnetv2_152x4_bit.goog_in21k_ft_in1k", 480, 1.0, 84.936, 97.456),
    ("resnetv2_18.ra4_e3600_r224_in1k", 224, 0.9, 73.572, 91.356),
    ("resnetv2_18.ra4_e3600_r224_in1k", 288, 1.0, 75.364, 92.692),
    ("resnetv2_18d.ra4_e3600_r224_in1k", 224, 0.9, 74.422, 91.928),
    ("resnetv2_18d.ra4_e3600_r224_in1k", 288, 1.0, 76.058, 93.01),
    ("resnetv2_34.ra4_e3600_r224_in1k", 224, 0.9, 77.626, 93.518),
    ("resnetv2_34.ra4_e3600_r224_in1k", 288, 1.0, 79.07, 94.56),
    ("resnetv2_34d.ra4_e3600_r224_in1k", 224, 0.9, 78.27, 93.95),
    ("resnetv2_34d.ra4_e3600_r224_in1k", 288, 1.0, 79.614, 94.76),
    ("resnetv2_34d.ra4_e3600_r384_in1k", 384, 1.0, 79.792, 94.902),
    ("resnetv2_34d.ra4_e3600_r384_in1k", 448, 1.0, 80.43, 95.282),
    ("resnetv2_50.a1h_in1k", 224, 0.95, 80.41, 95.082),
    ("resnetv2_50.a1h_in1k", 288, 1.0, 81.406, 95.712),
    ("resnetv2_50d_evos.ah_in1k", 224, 0.95, 80.828, 95.27),
    ("resnetv2_50d_evos.ah_in1k", 288, 1.0, 82.024, 95.916),
    ("resnetv2_50d_gn.ah_in1k", 224, 0.95, 80.8, 95.356),
    ("resnetv2_50d_gn.ah_in1k", 288, 1.0, 81.96, 95.932),
    ("resnetv2_50x1_bit.goog_distilled_in1k", 224, 0.875, 82.82, 96.526),
    ("resnetv2_50x1_bit.goog_in21k_ft_in1k", 448, 1.0, 80.386, 95.694),
    ("resnetv2_50x3_bit.goog_in21k_ft_in1k", 448, 1.0, 83.982, 97.13),
)
# Net, input size, crop fraction, top-1, top-5, source. Keras's own figures of ResNets are of 299
# pixels, not of the 224 that `keras.applications` builds by default.
_KERAS = (
    ("resnet50v2", 299, None, 75.960, 93.034, _KERAS_APPLICATIONS),
    ("resnet50v2", 224, 0.875, 69.73, 89.31, _CLASSIFICATION_MODELS),
    ("resnet101v2", 299, None, 77.234, 93.816, _KERAS_APPLICATIONS),
    ("resnet101v2", 224, 0.875, 71.93, 90.41, _CLASSIFICATION_MODELS),
    ("resnet152v2", 299, None, 78.032, 94.162, _KERAS_APPLICATIONS),
    ("resnet152v2", 224, 0.875, 72.29, 90.61, _CLASSIFICATION_MODELS),
    ("densenet121", 224, None, 74.972, 92.258, _KERAS_APPLICATIONS),
    ("densenet169", 224, None, 76.176, 93.176, _KERAS_APPLICATIONS),
    ("densenet201", 224, None, 77.320, 93.620, _KERAS_APPLICATIONS),
)
# File, input size, top-1.
_BIT = (("R50x1_224", 224, 82.8), ("R50x1_160", 160, 80.5))
# Net, top-1 on CIFAR-10's test images; the models' cards have the details.
_SHIPPED = (("preactresnet20_cifar10", 92.2), ("preactresnet164_cifar10", 93.1))


def published_figures(name: str) -> tuple[Figure, ...]:
    """Return the published accuracies of an entry.

    Args:
        name: Name of the entry.

    Returns:
        The figures, one for each input size.
    """
    source, _, own_name = name.partition("/")
    figures = {
        "timm": [(each, *values, _TIMM_RESULTS) for each, *values in _TIMM],
        "keras_applications": _KERAS,
        "bit": [(each, size, None, top1, None, _BIG_TRANSFER) for each, size, top1 in _BIT],
        "keras_preact": [
            (each, 32, 1.0, top1, None, f"keras_preact/data/{each}.md") for each, top1 in _SHIPPED
        ],
    }
    return tuple(Figure(*values) for each, *values in figures.get(source, ()) if each == own_name)
