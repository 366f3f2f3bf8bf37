import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from distrib.images.order import Plan, own_shares, permutation
from distrib.settings import SettingsError

GOLDEN_0 = [15, 13, 2, 12, 5, 1, 8, 7, 3, 11, 4, 6, 14, 0, 10, 9]
GOLDEN_7 = [2, 14, 11, 8, 9, 5, 3, 6, 4, 0, 13, 15, 12, 7, 1, 10]
SEEDS = st.integers(0, 2**32 - 1)


@examples(max_examples=50, deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 10_000), images=st.integers(1, 2000))
def test_an_order_visits_every_image_once(seed: int, epoch: int, images: int) -> None:
    assert np.array_equal(np.sort(permutation(seed, epoch, images)), np.arange(images))


@examples(max_examples=50, deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 10_000))
def test_the_order_differs_by_epoch_and_by_seed(seed: int, epoch: int) -> None:
    here = permutation(seed, epoch, 200)
    assert not np.array_equal(here, permutation(seed, epoch + 1, 200))
    assert not np.array_equal(here, permutation(seed ^ 1, epoch, 200))


def test_seed_and_epoch_are_not_one_sum() -> None:
    assert not np.array_equal(permutation(1, 2, 200), permutation(2, 1, 200))


def test_the_order_never_changes_between_versions() -> None:
    assert permutation(0, 0, 16).tolist() == GOLDEN_0
    assert permutation(7, 3, 16).tolist() == GOLDEN_7


def test_an_image_comes_at_any_place_equally_often() -> None:
    places = [int(np.flatnonzero(permutation(seed, 0, 10) == 3)[0]) for seed in range(2000)]
    counts = np.bincount(places, minlength=10)
    assert counts.min() > 140
    assert counts.max() < 260


def test_the_order_cannot_be_spoilt_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        permutation(0, 0, 16)[0] = 1
    Plan(16, 16, None, 0, 1).share_of(0, 0, 0, 0)[0][:] = 5
    assert permutation(0, 0, 16).tolist() == GOLDEN_0


@examples(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    epoch=st.integers(0, 50),
    images=st.integers(16, 300),
    quarter=st.integers(1, 4),
    micro=st.none() | st.integers(1, 20),
)
def test_shares_in_order_of_rank_are_the_batch_of_one_process(
    seed: int, epoch: int, images: int, quarter: int, micro: int | None
) -> None:
    batch = 4 * quarter
    alone = Plan(images, batch, None, 0, 1)
    assert alone.updates_per_epoch == images // batch
    for world in (1, 2, 4):
        plans = [Plan(images, batch, micro, rank, world) for rank in range(world)]
        assert {plan.updates_per_epoch for plan in plans} == {alone.updates_per_epoch}
        for position in range(alone.updates_per_epoch):
            (whole,) = alone.share_of(seed, epoch, position, 0)
            shares = [np.concatenate(plan.share_of(seed, epoch, position, plan.rank)) for plan in plans]
            assert {len(share) for share in shares} == {batch // world}
            assert np.array_equal(np.concatenate(shares), whole)


def test_batches_follow_the_order_and_leave_out_its_tail() -> None:
    plan = Plan(10, 4, None, 0, 1)
    batches = [plan.share_of(5, 1, at, 0)[0] for at in range(plan.updates_per_epoch)]
    assert np.array_equal(np.concatenate(batches), permutation(5, 1, 10)[:8])


@examples(max_examples=60, deadline=None)
@given(share=st.integers(1, 200), micro=st.none() | st.integers(1, 300))
def test_micro_batches_are_as_few_as_the_limit_allows(share: int, micro: int | None) -> None:
    plan = Plan(500, 2 * share, micro, 1, 2)
    parts = plan.share_of(0, 0, 0, 1)
    limit = micro or share
    assert len(parts) == plan.micro_batches == -(-share // limit)
    assert all(0 < len(part) <= limit for part in parts)
    assert np.array_equal(np.concatenate(parts), permutation(0, 0, 500)[share : 2 * share])


@examples(max_examples=60, deadline=None)
@given(power=st.integers(0, 4), images=st.integers(1, 7), micro=st.none() | st.integers(1, 9), data=st.data())
def test_virtual_ranks_have_the_same_shares_whoever_computes_them(
    power: int, images: int, micro: int | None, data: st.DataObject
) -> None:
    virtual = 2**power
    world = 2 ** data.draw(st.integers(0, power))
    plans = [Plan(200, virtual * images, micro, rank, world, virtual) for rank in range(world)]
    assert [number for plan in plans for number in plan.own] == list(range(virtual))
    assert {len(plan.own) for plan in plans} == {virtual // world}
    alone = [Plan(200, virtual * images, micro, number, virtual) for number in range(virtual)]
    for plan in plans:
        for number in plan.own:
            parts, others = plan.share_of(3, 1, 0, number), alone[number].share_of(3, 1, 0, number)
            assert [part.tolist() for part in parts] == [part.tolist() for part in others]


def test_a_number_of_processes_that_does_not_divide_the_virtual_ranks_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"--virtual-ranks 8 cannot be divided by 3 processes: use one of 1, 2, 4, 8"
    ):
        Plan(100, 24, None, 0, 3, 8)
    with pytest.raises(SettingsError, match=r"--virtual-ranks 2 cannot be divided by 4 processes: use one of 1, 2"):
        own_shares(2, 0, 4)


def test_a_batch_that_virtual_ranks_cannot_share_is_refused_with_what_would_do() -> None:
    with pytest.raises(
        SettingsError, match=r"by 8 virtual ranks: use --batch-size 8 or 16, or --virtual-ranks \(one of 1, 2, 4\)"
    ):
        Plan(100, 12, None, 0, 1, 8)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--batch-size 11 .* 10 training images"):
        Plan(10, 11, None, 0, 1)


@examples(max_examples=100, deadline=None)
@given(batch=st.integers(1, 300), world=st.integers(2, 64), spare=st.integers(0, 100))
def test_the_numbers_that_a_refusal_names_would_do(batch: int, world: int, spare: int) -> None:
    images = batch + spare
    if batch % world == 0:
        Plan(images, batch, None, 0, world)
        return
    with pytest.raises(SettingsError) as refusal:
        Plan(images, batch, None, 0, world)
    message = str(refusal.value)
    offers = message.split("use ")[1]
    sizes, worlds = offers.split(", or one of ") if ", or one of " in offers else ("", offers)
    named = [int(size) for size in re.findall(r"\d+", sizes)]
    others = [int(count) for count in re.findall(r"\d+", worlds)]
    assert named or others
    for size in named:
        Plan(images, size, None, 0, world)
    for count in others:
        Plan(images, batch, None, 0, count)
