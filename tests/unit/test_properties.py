"""What must hold of order, augmentation and draws for any run whatever, not only for the runs of the other tests."""

from functools import partial

import numpy as np
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor

from distrib.images.augmentation import BatchAugmentation
from distrib.images.hashing import draw, key, mix
from distrib.images.order import Plan, permutation

examples = partial(limits, deadline=None, derandomize=True)

SEEDS, EPOCHS = st.integers(0, 2**32 - 1), st.integers(0, 10**6)
WORDS = st.integers(0, 2**32 - 1)
INDICES = st.lists(st.integers(0, 2**40), min_size=1, max_size=40)


@st.composite
def plans(draw_: st.DrawFn) -> tuple[int, int, int | None, list[int]]:
    """Images, batch size, micro-batch, and every number of processes that can share the batch."""
    batch = draw_(st.integers(1, 96))
    images = draw_(st.integers(batch, batch * 5))
    micro = draw_(st.none() | st.integers(1, 100))
    return images, batch, micro, [world for world in range(1, batch + 1) if batch % world == 0]


# Order


@examples(max_examples=100)
@given(seed=SEEDS, epoch=EPOCHS, images=st.integers(0, 5000))
def test_an_order_is_a_permutation(seed: int, epoch: int, images: int) -> None:
    order = permutation(seed, epoch, images)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(images))


@examples(max_examples=60)
@given(seed=SEEDS, epoch=EPOCHS, images=st.integers(2, 500), fewer=st.integers(1, 499))
def test_fewer_images_keep_their_order(seed: int, epoch: int, images: int, fewer: int) -> None:
    order, fewer = permutation(seed, epoch, images), min(fewer, images)
    # The keys of two images decide which of them is first, whatever others there are.
    assert np.array_equal(order[order < fewer], permutation(seed, epoch, fewer))


@examples(max_examples=60)
@given(seed=SEEDS, epoch=EPOCHS, plan=plans(), data=st.data())
def test_shares_divide_the_batch_among_any_number_of_processes(
    seed: int, epoch: int, plan: tuple[int, int, int | None, list[int]], data: st.DataObject
) -> None:
    images, batch, micro, worlds = plan
    world, order = data.draw(st.sampled_from(worlds)), permutation(seed, epoch, images)
    ranks = [Plan(images, batch, micro, rank, world) for rank in range(world)]
    position = data.draw(st.integers(0, images // batch - 1))
    shares = [rank.share_of(seed, epoch, position, rank.rank) for rank in ranks]
    together = np.concatenate([part for share in shares for part in share])
    assert np.array_equal(together, order[position * batch : (position + 1) * batch])
    assert {sum(map(len, share)) for share in shares} == {batch // world}
    assert {len(share) for share in shares} == {ranks[0].micro_batches}
    assert all(0 < len(part) <= (micro or batch) for share in shares for part in share)


@examples(max_examples=60)
@given(seed=SEEDS, epoch=EPOCHS, plan=plans())
def test_no_number_of_processes_sees_other_images(
    seed: int, epoch: int, plan: tuple[int, int, int | None, list[int]]
) -> None:
    images, batch, micro, worlds = plan
    seen = set()
    for world in worlds:
        ranks = [Plan(images, batch, micro, rank, world) for rank in range(world)]
        updates = [
            b"".join(part.tobytes() for rank in ranks for part in rank.share_of(seed, epoch, position, rank.rank))
            for position in range(ranks[0].updates_per_epoch)
        ]
        seen.add(tuple(updates))
    assert len(seen) == 1
    assert len(seen.pop()) == images // batch


@examples(max_examples=60)
@given(seed=SEEDS, epoch=EPOCHS, plan=plans(), data=st.data())
def test_to_seek_is_to_skip(
    seed: int, epoch: int, plan: tuple[int, int, int | None, list[int]], data: st.DataObject
) -> None:
    images, batch, micro, worlds = plan
    world = data.draw(st.sampled_from(worlds))
    rank = Plan(images, batch, micro, data.draw(st.integers(0, world - 1)), world)
    places = [(e, at) for e in (epoch, epoch + 1, epoch + 2) for at in range(rank.updates_per_epoch)]
    in_order = {place: np.concatenate(rank.share_of(seed, *place, rank.rank)) for place in places}
    for place in data.draw(st.permutations(places)):  # whatever was asked for before
        assert np.array_equal(np.concatenate(rank.share_of(seed, *place, rank.rank)), in_order[place])


@examples(max_examples=60)
@given(seed=SEEDS, epoch=EPOCHS, plan=plans())
def test_no_image_comes_twice_in_an_epoch(seed: int, epoch: int, plan: tuple[int, int, int | None, list[int]]) -> None:
    images, batch, micro, _ = plan
    alone = Plan(images, batch, micro, 0, 1)
    seen = [
        index for at in range(alone.updates_per_epoch) for part in alone.share_of(seed, epoch, at, 0) for index in part
    ]
    assert len(set(seen)) == len(seen) == images // batch * batch


# Augmentation


@st.composite
def augmentations(draw_: st.DrawFn) -> tuple[BatchAugmentation, int]:
    """Any augmentation, and a size of images that it can vary."""
    size = draw_(st.integers(8, 20))
    augment = BatchAugmentation(
        seed=draw_(SEEDS),
        padding=draw_(st.integers(0, size - 1)),
        reflect=draw_(st.booleans()),
        flip=draw_(st.sampled_from(["none", "random", "alternating"])),
        cutout=draw_(st.integers(0, size + 3)),
    )
    return augment, size


def unlike(count: int, size: int) -> Tensor:
    """Images of which no two pixels are of the same colour, and none is black."""
    numbers = torch.arange(1, count * size * size + 1)
    colours = torch.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], dim=1)
    return colours.to(torch.uint8).view(count, size, size, 3)


def numbered(image: Tensor) -> Tensor:
    """The number that :func:`unlike` gave each pixel; 0 for black."""
    wide = image.to(torch.int64)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


@examples(max_examples=100)
@given(made=augmentations(), epoch=EPOCHS, indices=INDICES, data=st.data())
def test_images_are_varied_alike_in_any_company(
    made: tuple[BatchAugmentation, int], epoch: int, indices: list[int], data: st.DataObject
) -> None:
    augment, size = made
    batch, names = unlike(len(indices), size), torch.tensor(indices)
    together = augment(batch, names, epoch)
    order = torch.tensor(data.draw(st.permutations(range(len(indices)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(indices)), max_size=5)))
    parts = torch.tensor_split(order, torch.tensor(cuts, dtype=torch.int64))
    grouped = torch.cat([augment(batch[part], names[part], epoch) for part in parts if len(part)])
    assert torch.equal(grouped, together[order])


@examples(max_examples=100)
@given(made=augmentations(), epoch=EPOCHS, indices=INDICES)
def test_pixels_come_from_the_image_or_are_black(
    made: tuple[BatchAugmentation, int], epoch: int, indices: list[int]
) -> None:
    augment, size = made
    batch = unlike(len(indices), size)
    before = batch.clone()
    varied = augment(batch, torch.tensor(indices), epoch)
    assert varied.shape == batch.shape
    assert varied.dtype == torch.uint8
    assert torch.equal(batch, before)
    black = (augment.padding and not augment.reflect) or augment.cutout
    for image, found in zip(batch, varied, strict=True):
        allowed = numbered(image).flatten()
        used = numbered(found).flatten()
        assert torch.isin(used[used != 0], allowed).all()
        assert black or (used != 0).all()
        if not augment.reflect:  # every pixel has but one place
            assert len(used[used != 0].unique()) == (used != 0).sum()


@examples(max_examples=100)
@given(made=augmentations(), epoch=EPOCHS, indices=INDICES)
def test_a_cutout_is_one_square_within_its_size(
    made: tuple[BatchAugmentation, int], epoch: int, indices: list[int]
) -> None:
    augment, size = made
    plain = BatchAugmentation(augment.seed, 0, reflect=False, flip="none", cutout=augment.cutout)
    holes = numbered(plain(unlike(len(indices), size), torch.tensor(indices), epoch)) == 0
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None, :])  # a rectangle, where it is not cut by the edge
        for side in (rows, columns):
            assert int(side.sum()) <= min(augment.cutout, size)
            assert int(side.sum()) >= min((augment.cutout + 1) // 2, size) or not augment.cutout
            assert int((side[1:] != side[:-1]).sum()) <= 2
    assert bool(holes.any()) == bool(augment.cutout)


@examples(max_examples=60)
@given(made=augmentations(), epoch=EPOCHS, indices=INDICES)
def test_to_mirror_is_its_own_reverse(made: tuple[BatchAugmentation, int], epoch: int, indices: list[int]) -> None:
    augment, size = made
    mirror = BatchAugmentation(augment.seed, 0, reflect=False, flip=augment.flip, cutout=0)
    batch, names = unlike(len(indices), size), torch.tensor(indices)
    once = mirror(batch, names, epoch)
    assert torch.equal(mirror(once, names, epoch), batch)
    for image, found in zip(batch, once, strict=True):
        assert torch.equal(found, image) or torch.equal(found, image.flip(1))
    if augment.flip == "alternating":
        assert torch.equal(mirror(batch, names, epoch + 1), once.flip(2))


# Draws


@examples(max_examples=200)
@given(folded=WORDS, indices=INDICES, below=st.integers(1, 2**31 - 1))
def test_draws_lie_in_their_bounds_one_by_one_and_together(folded: int, indices: list[int], below: int) -> None:
    alone = [draw(folded, index, below) for index in indices]
    assert all(0 <= value < below for value in alone)
    assert draw(folded, np.array(indices, dtype=np.int64), below).tolist() == alone
    assert draw(folded, torch.tensor(indices, dtype=torch.int64), below).tolist() == alone


@examples(max_examples=100)
@given(folded=WORDS, indices=INDICES, below=st.integers(1, 2**20), factor=st.integers(1, 1000))
def test_a_finer_draw_refines_the_coarser(folded: int, indices: list[int], below: int, factor: int) -> None:
    # The crop of an image twice as wide starts about twice as far to the right: a draw is a fraction of its bound.
    names = np.array(indices, dtype=np.int64)
    assert np.array_equal(draw(folded, names, below * factor) // factor, draw(folded, names, below))


@examples(max_examples=200)
@given(words=st.sets(WORDS, min_size=2, max_size=200))
def test_no_two_words_are_mixed_to_one(words: set[int]) -> None:
    mixed = mix(np.array(sorted(words), dtype=np.int64))
    assert len(set(mixed.tolist())) == len(words)
    assert all(0 <= word < 2**32 for word in mixed.tolist())


@examples(max_examples=200)
@given(parts=st.lists(WORDS, max_size=6), place=st.integers(0, 5), other=WORDS)
def test_a_key_is_a_word_that_each_of_its_parts_decides(parts: list[int], place: int, other: int) -> None:
    assert 0 <= key(*parts) < 2**32
    if place < len(parts):
        changed = [*parts[:place], other, *parts[place + 1 :]]
        assert (key(*changed) == key(*parts)) == (changed == parts)  # each step of a key is one to one
