import threading
from concurrent.futures import Future

import pytest
import torch

from distrib.learning.copies import Copies


def held_up(copies: Copies) -> threading.Event:
    """What the thread waits for before it copies."""
    gate = threading.Event()
    copies._thread.submit(gate.wait, 60)  # a test that fails must end, too
    return gate


def test_copies_are_begun_and_waited_for() -> None:
    copies = Copies()
    gate = held_up(copies)
    weight = torch.arange(6.0).reshape(2, 3)
    found = copies.begin("model", {"weight": weight})
    others = copies.begin("optimizer", {"step": torch.tensor(3.0)})
    assert not any(begun.done() for begun in copies._begun.values())
    gate.set()
    copies.wait()
    weight.zero_()
    assert found["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert others["step"].item() == 3


def test_copies_of_statistics_are_there_at_once() -> None:
    copies = Copies()
    gate = held_up(copies)
    mean = torch.ones(2)
    found = copies.of("statistics", {"mean": mean})
    mean.zero_()
    assert found["mean"].tolist() == [1, 1]
    gate.set()


def test_memory_stays_and_keeps_the_order_of_elements() -> None:
    copies = Copies()
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    first = copies.begin("model", {"weight": weight})["weight"]
    assert first.is_contiguous(memory_format=torch.channels_last)
    again = copies.begin("model", {"weight": weight})["weight"]
    copies.wait()
    assert again is first
    assert torch.equal(first, weight)


def test_a_copy_that_fails_is_not_taken_for_one() -> None:
    copies = Copies()
    broken: Future[None] = Future()
    broken.set_exception(MemoryError())
    copies._begun["model"] = broken
    with pytest.raises(MemoryError):
        copies.wait()
