import numpy as np
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from distrib.images.hashing import draw, key, mix

KEYS = [2654435769, 3297717188, 12843399, 145003160]
DRAWS = [320, 211, 778, 493, 589, 596]
WORDS = st.integers(0, 2**32 - 1)


@examples(max_examples=100, deadline=None)
@given(folded=WORDS, indices=st.lists(st.integers(0, 2**31), min_size=1, max_size=20), below=st.integers(1, 2**24))
def test_python_numpy_and_torch_draw_the_same(folded: int, indices: list[int], below: int) -> None:
    plain = [draw(folded, index, below) for index in indices]
    assert draw(folded, np.array(indices, dtype=np.int64), below).tolist() == plain
    assert draw(folded, torch.tensor(indices, dtype=torch.int64), below).tolist() == plain
    assert all(0 <= value < below for value in plain)


@examples(max_examples=100, deadline=None)
@given(word=WORDS)
def test_mixing_is_the_same_in_python_numpy_and_torch(word: int) -> None:
    mixed = mix(word)
    assert 0 <= mixed < 2**32
    assert int(mix(np.array([word], dtype=np.int64))[0]) == mixed
    assert int(mix(torch.tensor([word]))[0]) == mixed


def test_mixing_is_one_to_one() -> None:
    words = np.concatenate([np.arange(2**17), np.arange(2**17) << 15])
    assert len(np.unique(mix(words))) == len(np.unique(words))


def test_draws_are_spread_evenly() -> None:
    for folded in (key(0, 0, 1), key(0, 1, 1), key(1, 0, 1)):
        counts = np.bincount(draw(folded, np.arange(90_000), 9), minlength=9)
        assert counts.sum() == 90_000
        assert abs(counts - 10_000).max() < 500


def test_neighbours_and_purposes_do_not_go_together() -> None:
    index = np.arange(20_000)
    here = draw(key(3, 4, 10), index, 1000)
    for other in (draw(key(3, 4, 11), index, 1000), draw(key(3, 5, 10), index, 1000), np.roll(here, 1)):
        assert abs(np.corrcoef(here, other)[0, 1]) < 0.03


@examples(max_examples=100, deadline=None)
@given(first=st.integers(0, 10**6), second=st.integers(0, 10**6))
def test_the_order_of_a_keys_parts_matters(first: int, second: int) -> None:
    assert (key(first, second) == key(second, first)) == (first == second)


def test_keys_of_all_small_parts_differ() -> None:
    keys = {key(seed, epoch, purpose) for seed in range(20) for epoch in range(50) for purpose in range(20)}
    assert len(keys) == 20 * 50 * 20


def test_keys_and_draws_never_change_between_versions() -> None:
    assert [key(), key(0), key(1, 2, 3), key(2**32 - 1, 0)] == KEYS
    assert [draw(key(1, 2, 3), index, 1000) for index in range(6)] == DRAWS
