"""Which part of an image the network sees, and that part at its size."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from distrib.images.hashing import draw

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, width, height, in pixels
Choose = Callable[[int, int], Box]  # of an image's width and height, the part of it to take

CROP_SHARE = 224 / 256  # evaluation keeps the middle of an image whose short side is a little larger
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the random-resized crop: Szegedy et al., arXiv:1409.4842
_FINE = 2**24  # steps of a drawn fraction


def crop_share(size: int) -> float:
    """Share of an image's short side that is kept for a network that sees ``size`` pixels, of 1.

    Small images have no margin to spare: there it is all.
    """
    return CROP_SHARE if size > 64 else 1.0


def centre(image: Image.Image, size: int) -> Image.Image:
    """Scale the short side and keep the central square: (size, size). Images of that size stay as they are."""
    if image.size == (size, size):
        return image
    kept = min(image.size) * crop_share(size)
    left, top = (image.width - kept) / 2, (image.height - kept) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + kept, top + kept))


def random_box(width: int, height: int, *, folded: int, index: int) -> Box:
    """A part of 8 to 100 % of the area and 3:4 to 4:3, drawn for ``index``; if none is found, the central square."""

    def fraction(attempt: int, purpose: int) -> float:
        return draw(folded + 16 * attempt + purpose, index, _FINE) / _FINE

    for attempt in range(10):
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * fraction(attempt, 0))
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        ratio = math.exp(low + (high - low) * fraction(attempt, 1))
        wide, high_ = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high_ <= height:
            left = int(fraction(attempt, 2) * (width - wide + 1))
            return left, int(fraction(attempt, 3) * (height - high_ + 1)), wide, high_
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def scaled(pixels: Pixels, box: Box, size: int) -> Pixels:
    """That part of an image (height, width, 3) uint8, scaled to (size, size, 3), each pixel from all that it covers.

    By torch, whose kernel for bytes takes half as long as Pillow's over it.
    """
    left, top, width, height = box
    part = torch.from_numpy(pixels[top : top + height, left : left + width])[None].permute(0, 3, 1, 2)
    found = F.interpolate(part, (size, size), mode="bilinear", antialias=True)
    return found.permute(0, 2, 3, 1)[0].numpy()
