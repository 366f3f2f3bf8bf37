"""Two small networks that learn in minutes: ResNet-9 and a plain one to compare with. PyTorch's own initialisation."""

from torch import Tensor, nn


def _convolution(inputs: int, outputs: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution, norm, ReLU and, if asked for, a max-pool that halves the image.

    The pool comes before the ReLU, which gives the same bits, gradients included, for a quarter of the ReLU's work.
    """
    # The norm takes the mean away, so the convolution needs no bias.
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    halved = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *halved, nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions and an identity past them; shapes stay as they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(x)


class ResNet9(nn.Module):
    """Nine layers, two residual blocks; made for short one-cycle training. Images of at least 8 pixels.

    Source: How to Train Your ResNet (David Page), in the shape that the course Deep Learning with PyTorch: Zero to GANs
    gave it. The blocks are those of Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385,
    except that the ReLU comes before the sum.
    """

    def __init__(self, *, classes: int, width: int = 64) -> None:
        super().__init__()
        self.stem = _convolution(3, width)
        self.stage1 = nn.Sequential(_convolution(width, 2 * width, pool=True), Residual(2 * width))
        self.stage2 = _convolution(2 * width, 4 * width, pool=True)
        self.stage3 = nn.Sequential(_convolution(4 * width, 8 * width, pool=True), Residual(8 * width))
        self.fc = nn.Linear(8 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled vectors that the classifier sees: (N, 3, H, W) to (N, 8 * width)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(images))))
        # Not adaptive_max_pool2d: its gradient on CUDA is summed in no fixed order.
        return x.amax(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: (N, 3, H, W) to (N, classes)."""
        return self.fc(self.features(images))


class SimpleCNN(nn.Module):
    """Four convolutions and a mean: what a ResNet is measured against. Images of at least 8 pixels.

    The mean over the image instead of hidden linear layers is from Network In Network,
    https://arxiv.org/abs/1312.4400.
    """

    def __init__(self, *, classes: int, width: int = 32) -> None:
        super().__init__()
        self.stem = _convolution(3, width, pool=True)
        self.stage1 = _convolution(width, 2 * width, pool=True)
        self.stage2 = _convolution(2 * width, 4 * width, pool=True)
        self.stage3 = _convolution(4 * width, 8 * width)
        self.fc = nn.Linear(8 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled vectors that the classifier sees: (N, 3, H, W) to (N, 8 * width)."""
        return self.stage3(self.stage2(self.stage1(self.stem(images)))).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: (N, 3, H, W) to (N, classes)."""
        return self.fc(self.features(images))
