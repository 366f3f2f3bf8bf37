"""How training images are varied: a pure function of (seed, epoch, index), on whole batches of uint8 images.

The draws are hashes (see :mod:`distrib.images.hashing`), so the same image is varied in the same way whatever process,
worker or device works on it, and after any restart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from distrib.images.hashing import draw, key
from distrib.images.transfer import send
from distrib.settings import Augmentation, require

CROPPED_ABOVE = 64  # pixels above which `--crop auto` takes a random part

SHIFT_DOWN, SHIFT_RIGHT, MIRROR, CUT_DOWN, CUT_RIGHT, RESIZED, POLICY = range(10, 17)  # purposes of the keys


@dataclass(frozen=True)
class BatchAugmentation:
    """Pad-and-crop, mirror and cutout of a batch; ``padding`` is 0 where images are not shifted."""

    seed: int
    padding: int
    reflect: bool
    flip: str
    cutout: int

    @classmethod
    def of(cls, settings: Augmentation, *, seed: int, size: int, mirrored: bool) -> "BatchAugmentation":
        """Resolve the settings for images of ``size`` pixels that may be ``mirrored`` or not.

        Raises:
            SettingsError: settings would black out whole images, or have no effect on images of that size.
        """
        pad = settings.crop == "pad" or (settings.crop == "auto" and size <= CROPPED_ABOVE)
        asked = settings.crop_padding is not None or settings.padding_mode != "zero"
        told = f"images of {size} pixels are not padded by --crop auto: give --crop pad, or no padding"
        require(pad or not asked, told)
        padding = (settings.crop_padding or max(1, size // 8)) if pad else 0
        require(padding < size, f"--crop-padding {padding} can shift images of {size} pixels out of sight")
        whole = f"--cutout {settings.cutout} can black out whole images of {size} pixels"
        require(settings.cutout < size, whole)
        flip = settings.flip if settings.flip != "auto" else ("random" if mirrored else "none")
        return cls(seed, padding, settings.padding_mode == "reflect", flip, settings.cutout)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Vary images (n, size, size, 3) uint8, drawn for each of ``indices`` (n,) int64 and ``epoch`` (from 0).

        The indices are in the processor's memory, wherever the images are.
        """
        if self.padding:
            images = self._shift(images, indices, epoch)
        if self.flip != "none":
            images = images if self.padding else images.clone()  # what was given stays as it is
            self._mirror(images, indices, epoch)
        if self.cutout:
            images = self._cut(images, indices, epoch)
        return images

    def _shift(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        count, size, pad = len(images), images.shape[1], self.padding
        side = size + 2 * pad
        if self.reflect:
            mirror = (torch.arange(-pad, size + pad, device=images.device)).abs()
            mirror = torch.where(mirror >= size, 2 * (size - 1) - mirror, mirror)
            padded = images[:, mirror][:, :, mirror].contiguous()
        else:
            padded = images.new_zeros(count, side, side, 3)
            padded[:, pad:-pad, pad:-pad] = images
        # Every window of the padded images, as a view: picking one of them copies whole rows.
        row, corners = side * 3, (count * side - size) * side + 2 * pad + 1
        windows = padded.as_strided((corners, size, size * 3), (3, row, 1))
        down = _drawn(key(self.seed, epoch, SHIFT_DOWN), indices, 2 * pad + 1, images.device)
        right = _drawn(key(self.seed, epoch, SHIFT_RIGHT), indices, 2 * pad + 1, images.device)
        corner = (_numbers(images) * side + down) * side + right
        return windows.index_select(0, corner).view(count, size, size, 3)

    def _mirror(self, images: Tensor, indices: Tensor, epoch: int) -> None:
        """In place."""
        # The processor knows which, and flips those alone.
        rows = send(torch.from_numpy(self._mirrored(indices, epoch).nonzero()[0]), images.device)
        flipped = images.index_select(0, rows).flip(2)
        _in_words(images).index_copy_(0, rows, _in_words(flipped))

    def _mirrored(self, indices: Tensor, epoch: int) -> npt.NDArray[np.bool_]:
        """Which images to mirror: (n,) bool."""
        if self.flip == "alternating":  # at random in the first epoch, then each the other way round every epoch
            return (draw(key(self.seed, 0, MIRROR), indices.numpy(), 2) + epoch) % 2 == 1
        return draw(key(self.seed, epoch, MIRROR), indices.numpy(), 2) == 1

    def _cut(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Black out a square whose centre lies anywhere in the image (DeVries and Taylor, arXiv:1708.04552)."""
        size = images.shape[1]
        place = torch.arange(size, device=images.device)

        def inside(purpose: int) -> Tensor:
            start = _drawn(key(self.seed, epoch, purpose), indices, size, place.device)[:, None] - self.cutout // 2
            return (place >= start) & (place < start + self.cutout)

        square = inside(CUT_DOWN)[:, :, None, None] & inside(CUT_RIGHT)[:, None, :, None]
        return images.masked_fill(square, 0)


def _drawn(folded: int, indices: Tensor, below: int, device: torch.device) -> Tensor:
    """As :func:`draw`, on the device. By the processor, which would have to tell a GPU each of the many small steps."""
    return send(torch.from_numpy(draw(folded, indices.numpy(), below)), device)


def _in_words(images: Tensor) -> Tensor:
    """A view of a batch of images as rows of the longest numbers that fit: a processor copies these one by one."""
    rows = images.view(len(images), images.stride(0))
    return rows.view(torch.int64) if rows.shape[1] % 8 == 0 else rows


def _numbers(images: Tensor) -> Tensor:
    """0, 1, ... for each of the images, (n,) int64."""
    return torch.arange(len(images), device=images.device)


def policy_of(name: str) -> Callable[[Image.Image], Image.Image] | None:
    """The torchvision augmentation of that ``--policy`` name, which draws from torch's global generator."""
    if name == "none":
        return None
    from torchvision import transforms  # noqa: PLC0415 - two seconds that runs without a policy should not pay

    policies = transforms.AutoAugmentPolicy
    return {
        "autoaugment-cifar10": lambda: transforms.AutoAugment(policies.CIFAR10),
        "autoaugment-imagenet": lambda: transforms.AutoAugment(policies.IMAGENET),
        "autoaugment-svhn": lambda: transforms.AutoAugment(policies.SVHN),
        "randaugment": transforms.RandAugment,
        "trivialaugment": transforms.TrivialAugmentWide,
    }[name]()


def apply_policy(
    policy: Callable[[Image.Image], Image.Image], image: Image.Image, *, seed: int, epoch: int, index: int
) -> Image.Image:
    """Apply a policy with draws that are a function of (seed, epoch, index); torch's generator is put back."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(key(seed, epoch, POLICY, index))
    try:
        return policy(image)
    finally:
        torch.random.set_rng_state(state)
