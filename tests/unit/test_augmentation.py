from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from distrib.images.augmentation import (
    CUT_DOWN,
    CUT_RIGHT,
    MIRROR,
    SHIFT_DOWN,
    SHIFT_RIGHT,
    BatchAugmentation,
    apply_policy,
    policy_of,
)
from distrib.images.hashing import draw, key
from distrib.settings import Augmentation, SettingsError

Pixels = npt.NDArray[np.uint8]
POLICIES = ["autoaugment-cifar10", "autoaugment-imagenet", "autoaugment-svhn", "randaugment", "trivialaugment"]


def images(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(count).integers(1, 256, (count, size, size, 3), dtype=np.uint8))


def slow(settings: BatchAugmentation, image: Pixels, index: int, epoch: int) -> Pixels:
    """The same, one image and one step at a time."""

    def drawn(purpose: int, below: int, of: int = epoch) -> int:
        return draw(key(settings.seed, of, purpose), index, below)

    size, pad = len(image), settings.padding
    if pad:
        edges = ((pad, pad), (pad, pad), (0, 0))
        padded = np.pad(image, edges, mode="reflect") if settings.reflect else np.pad(image, edges)
        top, left = drawn(SHIFT_DOWN, 2 * pad + 1), drawn(SHIFT_RIGHT, 2 * pad + 1)
        image = padded[top : top + size, left : left + size]
    if settings.flip == "random" and drawn(MIRROR, 2) == 1:
        image = image[:, ::-1]
    if settings.flip == "alternating" and (drawn(MIRROR, 2, of=0) + epoch) % 2 == 1:
        image = image[:, ::-1]
    if settings.cutout:
        image = image.copy()
        top, left = drawn(CUT_DOWN, size) - settings.cutout // 2, drawn(CUT_RIGHT, size) - settings.cutout // 2
        for row in range(max(top, 0), min(top + settings.cutout, size)):
            for column in range(max(left, 0), min(left + settings.cutout, size)):
                image[row, column] = 0
    return image


@examples(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 500),
    size=st.integers(8, 12),
    padding=st.integers(0, 7),
    reflect=st.booleans(),
    flip=st.sampled_from(["none", "random", "alternating"]),
    cutout=st.integers(0, 9),
    indices=st.lists(st.integers(0, 2**31), min_size=1, max_size=6),
)
def test_a_batch_is_varied_like_each_image_by_hand(  # noqa: PLR0913 - the arguments are what is drawn
    *, seed: int, epoch: int, size: int, padding: int, reflect: bool, flip: str, cutout: int, indices: list[int]
) -> None:
    augment = BatchAugmentation(seed, padding, reflect, flip, cutout)
    batch = images(len(indices), size)
    before = batch.clone()
    varied = augment(batch, torch.tensor(indices), epoch)
    assert torch.equal(batch, before)
    assert varied.dtype == torch.uint8
    for place, index in enumerate(indices):
        assert np.array_equal(varied[place].numpy(), slow(augment, batch[place].numpy(), index, epoch))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_a_padding_as_wide_as_the_image_is_refused(mode: str) -> None:
    with pytest.raises(SettingsError, match="--crop-padding 8 can shift images of 8 pixels out of sight"):
        BatchAugmentation.of(Augmentation(padding_mode=mode, crop_padding=8), seed=0, size=8, mirrored=True)
    wide = Augmentation(padding_mode=mode, crop_padding=7)
    assert BatchAugmentation.of(wide, seed=0, size=8, mirrored=True).padding == 7


def test_a_cutout_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(SettingsError, match="--cutout 8 can black out whole images of 8 pixels"):
        BatchAugmentation.of(Augmentation(cutout=8), seed=0, size=8, mirrored=True)
    assert BatchAugmentation.of(Augmentation(cutout=7), seed=0, size=8, mirrored=True).cutout == 7


@pytest.mark.parametrize("asked", [{"crop_padding": 4}, {"padding_mode": "reflect"}])
def test_a_padding_without_effect_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="images of 65 pixels are not padded by --crop auto: give --crop pad"):
        BatchAugmentation.of(Augmentation(**asked), seed=0, size=65, mirrored=True)
    assert BatchAugmentation.of(Augmentation(crop="pad", **asked), seed=0, size=65, mirrored=True).padding > 0


def test_an_image_alone_is_varied_as_in_a_batch() -> None:
    augment = BatchAugmentation(3, 2, reflect=False, flip="random", cutout=3)
    batch, indices = images(40, 8), torch.arange(100, 140)
    together = augment(batch, indices, 5)
    for place in range(40):
        alone = augment(batch[place : place + 1], indices[place : place + 1], 5)
        assert torch.equal(alone[0], together[place])
    backwards = augment(batch.flip(0), indices.flip(0), 5)
    assert torch.equal(backwards.flip(0), together)


def test_epochs_seeds_and_images_are_varied_differently() -> None:
    batch = images(1, 8).expand(64, 8, 8, 3)
    augment = BatchAugmentation(3, 3, reflect=False, flip="random", cutout=0)
    here = augment(batch, torch.arange(64), 0)
    assert len({bytes(image.numpy()) for image in here}) > 30
    assert not torch.equal(here, augment(batch, torch.arange(64), 1))
    other = BatchAugmentation(4, 3, reflect=False, flip="random", cutout=0)
    assert not torch.equal(here, other(batch, torch.arange(64), 0))


def test_every_shift_is_drawn() -> None:
    augment = BatchAugmentation(0, 2, reflect=False, flip="none", cutout=0)
    dot = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    dot[0, 4, 4] = 255
    varied = augment(dot.expand(1000, 8, 8, 3), torch.arange(1000), 0)
    places = {tuple(place.tolist()) for place in varied[..., 0].nonzero()[:, 1:]}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_alternating_mirrors_every_image_every_other_epoch() -> None:
    augment = BatchAugmentation(3, 0, reflect=False, flip="alternating", cutout=0)
    batch, indices = images(50, 8), torch.arange(50)
    first, second, third = (augment(batch, indices, epoch) for epoch in range(3))
    assert torch.equal(first, second.flip(2))
    assert torch.equal(first, third)
    mirrored = (first != batch).flatten(1).any(1)
    assert 10 < mirrored.sum() < 40


@pytest.mark.parametrize(
    ("settings", "size", "mirrored", "expected"),
    [
        (Augmentation(), 32, True, (4, False, "random", 0)),
        (Augmentation(), 8, False, (1, False, "none", 0)),
        (Augmentation(), 65, True, (0, False, "random", 0)),
        (Augmentation(crop="none"), 32, True, (0, False, "random", 0)),
        (Augmentation(crop="resized"), 32, True, (0, False, "random", 0)),
        (Augmentation(crop="pad", padding_mode="reflect"), 96, True, (12, True, "random", 0)),
        (Augmentation(crop_padding=2, flip="alternating", cutout=5), 32, False, (2, False, "alternating", 5)),
    ],
)
def test_auto_depends_on_size_and_data(
    *, settings: Augmentation, size: int, mirrored: bool, expected: tuple[int, bool, str, int]
) -> None:
    found = BatchAugmentation.of(settings, seed=9, size=size, mirrored=mirrored)
    assert (found.padding, found.reflect, found.flip, found.cutout) == expected
    assert found.seed == 9


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_a_function_of_seed_epoch_and_image(name: str) -> None:
    policy = policy_of(name)
    assert policy is not None
    image = Image.fromarray(images(1, 32)[0].numpy())

    def varied(seed: int, epoch: int, index: int) -> bytes:
        return apply_policy(policy, image, seed=seed, epoch=epoch, index=index).tobytes()

    first = [varied(1, 2, index) for index in range(12)]
    torch.rand(3)
    assert [varied(1, 2, index) for index in range(12)] == first
    assert len(set(first)) > 3
    assert [varied(1, 3, index) for index in range(12)] != first
    assert [varied(2, 2, index) for index in range(12)] != first


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_leaves_torchs_generator_alone(name: str) -> None:
    policy = policy_of(name)
    assert policy is not None
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    apply_policy(policy, Image.new("RGB", (16, 16)), seed=0, epoch=0, index=0)
    assert torch.equal(torch.rand(4), expected)


def test_no_policy_is_none() -> None:
    assert policy_of("none") is None
