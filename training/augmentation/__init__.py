"""Random changes of training images: crops, colors, RandAugment, mixup and CutMix."""
