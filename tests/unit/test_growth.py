import pytest
import torch
from torch.nn.functional import interpolate

from distrib.images.growth import Growth
from distrib.settings import Augmentation, SettingsError


def growth(first: int | None = 24, updates: int = 25) -> Growth:
    return Growth.of(Augmentation(start_size=first), size=32, updates=updates)


def test_sides_rise_in_steps_to_the_full_one_and_stay() -> None:
    assert [growth().side(update) for update in range(25)] == [24] * 11 + [28] * 11 + [32] * 3
    assert [growth(20, 20).side(update) for update in (0, 5, 6, 11, 12, 16, 17)] == [20, 20, 24, 24, 28, 28, 32]
    for first in (None, 32):
        assert {growth(first).side(update) for update in range(25)} == {32}


@pytest.mark.parametrize(("first", "full"), [(24, 32), (32, 32), (31, 32), (28, 32), (27, 32), (128, 224), (9, 64)])
def test_there_are_so_many_sides(first: int, full: int) -> None:
    grown = Growth.of(Augmentation(start_size=first), size=full, updates=10_000)
    assert grown.sides == len({grown.side(update) for update in range(10_000)})


def test_images_shrink_to_means_of_what_they_cover() -> None:
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert growth()(images, 24) is images
    small = growth()(images, 0)
    assert small.shape == (5, 24, 24, 3)
    assert small.dtype == torch.uint8
    assert small.is_contiguous()
    flat = torch.full((2, 32, 32, 3), 201, dtype=torch.uint8)
    assert growth()(flat, 0).unique().tolist() == [201]
    means = (images.float().mean((1, 2)) - small.float().mean((1, 2))).abs()
    assert means.max() < 3


def test_bytes_shrink_as_floats_do() -> None:
    images = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    floats = interpolate(images.permute(0, 3, 1, 2).float(), 24, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    assert (growth()(images, 0) - floats).abs().max() <= 1


def test_images_do_not_begin_larger_than_they_are() -> None:
    with pytest.raises(SettingsError, match="--start-size 40 is more than the 32 pixels"):
        growth(40)
