from types import SimpleNamespace

import pytest
import torch

from distrib.lifecycle import polling
from distrib.lifecycle.polling import Poll


class World:
    """Two processes, of which the other wants and takes what is written here."""

    def __init__(self, *, size: int = 2) -> None:
        self.size, self.device, self.asked = size, torch.device("cpu"), 0
        self.other = [0.0, 0.0, 0.0]

    def stack(self, mine: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return torch.stack([mine, torch.tensor(self.other)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr(polling.time, "perf_counter", lambda: made.now)
    return made


def answers(poll: Poll, clock: SimpleNamespace, calls: int, seconds: float) -> list[list[bool]]:
    found = []
    for _ in range(calls):
        clock.now += seconds
        found.append(poll())
    return found


def test_a_single_process_hears_at_once(clock: SimpleNamespace) -> None:
    world = World(size=1)
    wants = [0.0, 0.0]
    poll = Poll(lambda: wants, world)
    assert poll() == [False, False]
    wants[1] = 1.0
    assert poll() == [False, True]
    assert world.asked == 0


def test_processes_ask_every_half_second(clock: SimpleNamespace) -> None:
    world = World()
    poll = Poll(lambda: [0.0, 0.0], world)
    answers(poll, clock, calls=1001, seconds=0.01)
    assert 20 <= world.asked <= 22


def test_the_slowest_process_decides_how_often(clock: SimpleNamespace) -> None:
    world = World()
    world.other = [0.0, 0.0, 0.25]  # seconds of its calls
    poll = Poll(lambda: [0.0, 0.0], world)
    answers(poll, clock, calls=101, seconds=0.01)
    assert 50 <= world.asked <= 52


def test_what_another_wants_all_hear_within_two_seconds(clock: SimpleNamespace) -> None:
    world = World()
    poll = Poll(lambda: [0.0, 0.0], world)
    answers(poll, clock, calls=500, seconds=0.01)
    world.other = [1.0, 0.0, 0.01]
    heard = answers(poll, clock, calls=200, seconds=0.01)
    assert [True, False] in heard
    assert [True, True] not in heard


def test_slow_calls_are_asked_every_time(clock: SimpleNamespace) -> None:
    world = World()
    poll = Poll(lambda: [0.0, 0.0], world)
    answers(poll, clock, calls=10, seconds=1.5)
    assert world.asked == 10
