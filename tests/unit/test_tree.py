from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from distrib.learning.tree import PIECE, Lane, TreeSum, checksum, halves

CPU = torch.device("cpu")


def wide(share: int, like: list[Tensor]) -> list[Tensor]:
    """Values of all magnitudes, whose sum shows in which order they were added."""
    draws = torch.Generator().manual_seed(share)
    return [torch.randn(t.shape, generator=draws) * 10 ** (6 * torch.rand(t.shape, generator=draws)) for t in like]


def tree(values: list[Tensor]) -> Tensor:
    """The sum, written down from its definition."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return tree(values[:half]) + tree(values[half:])


LIKE = [
    torch.empty(3, 5, 2, 2).to(memory_format=torch.channels_last),
    torch.empty(7),
    torch.empty(()),
    torch.empty(4, 6),
]


@examples(max_examples=30, deadline=None)
@given(power=st.integers(0, 5))
def test_shares_are_added_along_the_tree(power: int) -> None:
    shares, total = 2**power, TreeSum(LIKE)
    for _ in range(2):  # its buffers are used again
        total.begin()
        for share in range(shares):
            total.add(wide(share, LIKE))
        total.finish(0, 1, shares)
        for place, mean in enumerate(total.total):
            assert torch.equal(mean, tree([wide(share, LIKE)[place] for share in range(shares)]) / shares)


def test_the_order_of_the_terms_shows() -> None:
    values = [wide(share, LIKE)[0] for share in range(8)]
    assert not torch.equal(tree(values), sum(values[1:], start=values[0]))


@pytest.mark.parametrize("shares", [1, 2, 8, 32])
def test_partial_sums_are_few(shares: int) -> None:
    total, most = TreeSum(LIKE), 0
    for share in range(shares):
        total.add(wide(share, LIKE))
        most = max(most, len(total._stack) + len(total._free))
    assert most == max(1, shares.bit_length() - 1)  # log2


@pytest.mark.parametrize("elements", [0, 1, 3, 8, 1001])
@pytest.mark.parametrize("power", range(5))
def test_each_element_is_summed_along_the_tree_by_one_process(power: int, elements: int) -> None:
    """The exchange between processes, played on paper: which terms meet in which order."""
    world = 2**power
    rounds = [list(halves(elements, rank, world)) for rank in range(world)]
    terms = [[str(rank)] * elements for rank in range(world)]
    for number in range(power):
        before = [list(row) for row in terms]
        for rank in range(world):
            kept, given, peer = rounds[rank][number]
            assert (rounds[peer][number][0], rounds[peer][number][2]) == (given, rank)
            low, high = sorted((rank, peer))
            terms[rank][kept] = [f"({a}+{b})" for a, b in zip(before[low][kept], before[high][kept], strict=True)]
    sent = [sum(len(range(*part.indices(elements))) for _, part, _ in mine) for mine in rounds]
    for number in reversed(range(power)):
        before = [list(row) for row in terms]
        for rank in range(world):
            _, given, peer = rounds[rank][number]
            terms[rank][given] = before[peer][given]
    whole = [str(rank) for rank in range(world)]
    while len(whole) > 1:
        whole = [f"({a}+{b})" for a, b in zip(whole[::2], whole[1::2], strict=True)]
    assert terms == [whole * elements] * world
    assert sum(sent) == (world - 1) * elements  # each process all but its own part, on average; and as much again back


def test_what_is_added_is_not_kept() -> None:
    total, values = TreeSum(LIKE), wide(0, LIKE)
    total.add(values)
    for value in values:
        value.zero_()
    total.finish(0, 1, 1)
    assert all(torch.equal(mean, value) for mean, value in zip(total.total, wide(0, LIKE), strict=True))


def test_means_lie_in_memory_as_what_they_are_of() -> None:
    total = TreeSum(LIKE)
    total.add(wide(0, LIKE))
    total.finish(0, 1, 1)
    assert [mean.stride() for mean in total.total] == [tensor.stride() for tensor in LIKE]
    first = total.total[0]
    assert all(mean.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for mean in total.total)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "last bit": lambda x: torch.cat([x[:-1], torch.nextafter(x[-1:], torch.tensor(torch.inf))]),
    "one sign": lambda x: torch.cat([-x[:1], x[1:]]),
    "all signs": torch.neg,
    "all times 4": lambda x: 4 * x,
    "one times 16": lambda x: torch.cat([16 * x[:1], x[1:]]),
    "reversed": lambda x: x.flip(0),
    "neighbours exchanged": lambda x: torch.cat([x[1:2], x[:1], x[2:]]),
    "pieces exchanged": lambda x: torch.cat([x[PIECE : 2 * PIECE], x[:PIECE], x[2 * PIECE :]]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_checksum_shows_a_change_of_bits_or_of_order(change: Callable[[Tensor], Tensor]) -> None:
    values = torch.randn(2 * PIECE + 1000, generator=torch.Generator().manual_seed(0))
    before = checksum([values, values[:7]])
    assert before.dtype == torch.int64
    assert 0 <= int(before) == int(before.float()) < 2**24
    assert checksum([values.clone(), values[:7]]) == before
    assert checksum([change(values), values[:7]]) != before
    assert checksum([values[:7], values]) != before


def test_a_lane_calls_in_order_and_gives_back_what_is_raised() -> None:
    seen: list[int] = []

    def call(number: int) -> Callable[[], None]:
        return lambda: seen.append(number)

    def fail() -> None:
        raise RuntimeError("a process is lost")

    lane = Lane(CPU)
    for number in range(100):
        lane.submit(call(number))
    lane.wait()
    assert seen == list(range(100))
    lane.submit(fail)
    lane.submit(call(100))
    with pytest.raises(RuntimeError, match="a process is lost"):
        lane.wait()
    lane.submit(call(101))
    with pytest.raises(RuntimeError, match="a process is lost"):
        lane.wait()
    assert seen == list(range(100))  # what they send would meet what others wait for
    lane.close()
    assert not lane._thread.is_alive()
