"""Images that begin small and grow while training: the first epochs, which learn the coarse, then cost less."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distrib.settings import Augmentation, SettingsError

GROWING = 0.85  # of the updates: the last ones see what the network will be asked about
STEP = 4  # pixels: for every size kernels are chosen anew, and compiled if they are


@dataclass(frozen=True)
class Growth:
    """The side of training images at every update: from ``first`` to ``full`` pixels within ``updates``.

    Source: the progressive resizing of FFCV's ImageNet recipes, https://github.com/libffcv/ffcv-imagenet.
    """

    first: int
    full: int
    updates: float

    @classmethod
    def of(cls, settings: Augmentation, *, size: int, updates: int) -> "Growth":
        """Resolve the settings for images of ``size`` pixels and a run of so many updates.

        Raises:
            SettingsError: they would begin larger than they are.
        """
        first = settings.start_size or size
        if first > size:
            raise SettingsError(f"--start-size {first} is more than the {size} pixels that images have")
        return cls(first, size, GROWING * updates if first < size else 0)

    @property
    def sides(self) -> int:
        """How many different ones there are."""
        return 2 + (self.full - self.first - 1) // STEP

    def side(self, update: int) -> int:
        """Pixels at the update with index ``update`` (from 0)."""
        if update >= self.updates:
            return self.full
        grown = int((self.full - self.first) * update / self.updates)
        return self.first + grown // STEP * STEP

    def __call__(self, images: Tensor, update: int) -> Tensor:
        """Images (n, full, full, 3) uint8 at the side of that update, each pixel from all that it covers."""
        side = self.side(update)
        if side == images.shape[1]:
            return images
        pixels = images.permute(0, 3, 1, 2)
        if pixels.device.type == "cpu":  # only there torch scales bytes, in some quarter of the time of floats
            return F.interpolate(pixels, side, mode="bilinear", antialias=True).permute(0, 2, 3, 1).contiguous()
        small = F.interpolate(pixels.to(torch.float32), side, mode="bilinear", antialias=True)
        return small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
