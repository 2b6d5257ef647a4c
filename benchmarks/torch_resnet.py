"""The CIFAR net of bottleneck units, written plainly in PyTorch, for `benchmarks.depth`."""

from __future__ import annotations

import torch
from torch import nn


class Bottleneck(nn.Module):
    """A pre-activation bottleneck unit with its stride in the first convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        inside = channels // 4
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, inside, 1, stride, bias=False)
        self.norm2 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the residual branch to the shortcut."""
        activated = self.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        branch = self.conv1(activated)
        branch = self.conv2(self.relu(self.norm2(branch)))
        branch = self.conv3(self.relu(self.norm3(branch)))
        return shortcut + branch


class CifarPreActResNet(nn.Module):
    """Three stages of bottleneck units.

    Args:
        units: Units of each stage.
        classes: Number of classes.
    """

    def __init__(self, units: int, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
        in_channels = 16
        for channels, stride in ((64, 1), (128, 2), (256, 2)):
            for index in range(units):
                layers.append(Bottleneck(in_channels, channels, stride if index == 0 else 1))
                in_channels = channels
        layers += [nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(in_channels, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of images `(batch, 3, height, width)`."""
        return self.layers(x)
