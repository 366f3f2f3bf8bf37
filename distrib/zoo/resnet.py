"""Residual networks and their plain counterparts.

Source: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385. The four-stage networks are its
section 4.1 (table 1), with the stride of a bottleneck in its 3x3 convolution, as torchvision has it; the three-stage
ones its section 4.2. Parameters bear torchvision's names, so its weights load into networks with the ImageNet stem.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from distrib.settings import require

Shortcut = Literal["projection", "padding", "none"]

STAGES: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage, by depth."""

NARROWEST = 8
"""Channels that a shortcut's convolution takes at least."""


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class Padding(nn.Module):
    """Shortcut without parameters (option A): every ``stride``-th pixel, and new channels that are zero.

    (N, C, H, W) becomes (N, C + channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.channels))


def _shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if kind == "none":
        return None
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if kind == "padding":
        return Padding(outputs - inputs, stride)
    return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """A few convolutions, and a shortcut past them: (N, inputs, H, W) to (N, channels * expansion, H', W')."""

    expansion: int

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.downsample = _shortcut(shortcut, inputs, channels * self.expansion, stride)

    def residual(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual(x)
        return F.relu(y if self.downsample is None else y + self.downsample(x), inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions; the first has the stride."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(inputs, channels, stride, shortcut)
        self.conv1 = _conv3x3(inputs, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 one has the stride, the last gives four times the channels."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__(inputs, channels, stride, shortcut)
        self.conv1 = _conv1x1(inputs, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv1x1(channels, channels * self.expansion)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """Stem, stages that each halve the image and double the channels (the first does neither), mean, classifier.

    Stage ``i`` is the attribute ``layer{i}``. Without shortcuts it is the paper's plain network.

    Args:
        block: what the stages are made of.
        depths: blocks of each stage.
        classes: logits given.
        width: channels of the first stage, before a bottleneck's expansion.
        stem: cifar (3x3, stride 1) or imagenet (7x7, stride 2, then a max-pool of stride 2).
        shortcut: how a shortcut changes shape: by a 1x1 convolution or by padding; none: there are no shortcuts.
    """

    def __init__(
        self,
        block: type[Block],
        depths: Sequence[int],
        *,
        classes: int,
        width: int,
        stem: Literal["cifar", "imagenet"],
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False) if imagenet else _conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if imagenet else nn.Identity()
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        inputs = width
        for index, (stage, depth) in enumerate(zip(self.stages, depths, strict=True)):
            channels = width * 2**index
            outputs = channels * block.expansion
            first = block(inputs, channels, 2 if index else 1, shortcut)
            rest = [block(outputs, channels, 1, shortcut) for _ in range(depth - 1)]
            self.add_module(stage, nn.Sequential(first, *rest))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)
        self.apply(_initialise)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled vectors that the classifier sees: (N, 3, H, W) to (N, C)."""
        # The pool first: the same bits, gradients included, for a quarter of the ReLU's work.
        x = F.relu(self.maxpool(self.bn1(self.conv1(images))), inplace=True)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: (N, 3, H, W) to (N, classes)."""
        return self.fc(self.features(images))


def _initialise(module: nn.Module) -> None:
    """He's initialisation, https://arxiv.org/abs/1502.01852. Batch norms begin as the identity by themselves."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def resnet(
    depth: int,
    *,
    classes: int,
    width: int = 64,
    stem: Literal["cifar", "imagenet"] = "cifar",
    shortcuts: bool = True,
) -> ResNet:
    """Build a four-stage network of depth 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).

    Raises:
        SettingsError: its shortcuts would be too narrow.
    """
    block = BasicBlock if depth < 50 else Bottleneck
    # oneDNN's backward pass of a 1x1 convolution with a stride, channels last, writes beyond its memory if there are
    # fewer channels than a register of AVX2 holds: https://github.com/uxlfoundation/oneDNN/issues/6035.
    narrow = shortcuts and width * block.expansion < NARROWEST
    least = NARROWEST // block.expansion
    require(not narrow, f"--width of a ResNet-{depth} is at least {least}: with fewer channels CPUs may crash")
    shortcut: Shortcut = "projection" if shortcuts else "none"
    return ResNet(block, STAGES[depth], classes=classes, width=width, stem=stem, shortcut=shortcut)


def cifar_resnet(depth: int, *, classes: int, width: int = 16, shortcuts: bool = True) -> ResNet:
    """Build a three-stage network of depth 6n + 2, such as 20, 32, 44, 56 or 110, for images of about 32 pixels."""
    shortcut: Shortcut = "padding" if shortcuts else "none"
    depths = (depth // 6,) * 3
    return ResNet(BasicBlock, depths, classes=classes, width=width, stem="cifar", shortcut=shortcut)
