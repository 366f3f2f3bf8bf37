"""Views: an image shown to the network in several ways, whose answers are averaged."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Views = Literal["one", "mirror", "shift"]


def views_of(pixels: Tensor, views: Views) -> Iterator[tuple[Tensor, float]]:
    """The views of images (n, size, size, 3) uint8, each with its share of the answer; the shares add up to 1.

    ``one``: the images themselves. ``mirror``: also mirrored. ``shift``: both also shifted by one pixel up and
    left, and down and right, the edge repeated; half of the answer is that of the unshifted ones.

    Source: https://arxiv.org/abs/2404.00498, section 3.5.
    """
    if views == "one":
        yield pixels, 1.0
        return
    place = torch.arange(pixels.shape[1], device=pixels.device)
    for way in (pixels, pixels.flip(2)):
        yield way, 0.5 if views == "mirror" else 0.25
        for by in (-1, 1) if views == "shift" else ():
            shifted = (place + by).clamp(0, len(place) - 1)
            yield way[:, shifted][:, :, shifted], 0.125
