import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distrib.lifecycle import heartbeat
from distrib.lifecycle.heartbeat import SIZE, Beat, Heartbeats, Peer, Pulse
from distrib.lifecycle.watchdog import Watchdog, explanation


class Processes:
    """As many processes as are named, seen from one of them."""

    def __init__(self, rank: int, peers: list[Peer]) -> None:
        self.rank, self.size, self.peers = rank, len(peers), peers

    def gather(self, item: Peer) -> list[Peer]:
        return [item if peer.rank == self.rank else peer for peer in self.peers]


def beat(rank: int, phase: str, update: int, seconds: float = 100.0, *, ago: float = 0.0) -> Beat:
    return Beat(rank, f"node{rank}", 100 + rank, 7, phase, update, seconds, time.time() - ago)


def test_a_phase_counts_as_passed_once_it_is_left() -> None:
    pulse = Pulse()
    pulse.enter("update", 1)
    assert pulse.passed == {"starting"}
    pulse.enter("update", 2)
    assert pulse.passed == {"starting"}
    pulse.enter("data loading", 3)
    assert pulse.passed == {"starting", "update"}
    assert (pulse.phase, pulse.update) == ("data loading", 3)


def test_every_phase_that_is_entered_is_known() -> None:
    """A beat in an unknown phase would be taken for a damaged file."""
    house = Path(heartbeat.__file__).parents[1]
    text = "".join((house / name).read_text() for name in ("learning/engine.py", "assembly.py"))
    entered = {line.split('"')[1] for line in text.splitlines() if "pulse.enter(" in line}
    assert entered == set(heartbeat.PHASES) - {"starting"}


def test_one_in_data_loading_is_told_from_those_who_wait() -> None:
    beats = {0: beat(0, "update", 812), 1: beat(1, "data loading", 812, 94.0), 2: beat(2, "update", 812)}
    text = explanation(beats, set(), 3)
    assert "rank 1 on node1 in data loading (update 812) for 94 s, the others wait in update 812" in text


def test_one_that_is_an_update_behind_is_told() -> None:
    beats = {0: beat(0, "saving", 811, 300.0), 1: beat(1, "data loading", 812)}
    assert "rank 0 on node0 in saving (update 811) for 300 s, the others wait in data loading" in explanation(
        beats, set(), 2
    )


def test_one_that_gives_no_sign_of_life_is_told() -> None:
    beats = {0: beat(0, "update", 812), 1: beat(1, "update", 812, 1.0, ago=94.0)}
    text = explanation(beats, {1}, 2)
    assert "rank 1 on node1 gives no sign of life for 94 s, last seen in update 812 (stopped" in text
    assert "the others wait in update 812 for 100 s" in text


def test_one_that_does_not_reach_rank_0_is_told() -> None:
    beats = {rank: dataclasses.replace(beat(rank, "update", 812), cut=rank == 1) for rank in range(3)}
    text = explanation(beats, set(), 3)
    assert "the run hangs: rank 1 on node1 does not reach rank 0, the network between their machines is down," in text
    assert "the others wait in update 812 for 100 s" in text


def test_one_that_never_wrote_is_told() -> None:
    assert "rank 1 gives no sign of life (stopped" in explanation({0: beat(0, "update", 1)}, {1}, 2)


def test_if_all_wait_in_the_same_place_that_is_told() -> None:
    beats = {rank: beat(rank, "update", 812) for rank in range(2)}
    assert "the run hangs: all ranks wait in update 812 for 100 s." in explanation(beats, set(), 2)


def test_a_process_alone_is_told_as_such() -> None:
    assert "the run hangs: it stands in data loading" in explanation({0: beat(0, "data loading", 5)}, set(), 1)


def test_without_any_heartbeat_that_is_told() -> None:
    assert "no heartbeat can be read" in explanation({}, set(), 1)


def test_one_that_left_with_an_error_is_told() -> None:
    gone = dataclasses.replace(beat(1, "update", 811), left=1)
    assert "rank 1 on node1 has ended with exit code 1, the others" in explanation(
        {0: beat(0, "update", 812), 1: gone}, {1}, 2
    )


def heartbeats(folder: Path, rank: int = 0) -> Heartbeats:
    me = Peer.me(0)
    return Heartbeats(folder, Processes(rank, [me, Peer(1, me.host, me.pid, me.space)]))


def test_a_beat_is_read_as_it_was_written(tmp_path: Path) -> None:
    beats = heartbeats(tmp_path)
    pulse = Pulse("update", 5, time.monotonic() - 3)
    beats.write(pulse)
    beats.write(pulse)
    found = beats.read()[0]
    assert (found.rank, found.pid, found.beat, found.phase, found.update) == (0, os.getpid(), 2, "update", 5)
    assert found.seconds >= 3
    assert found.left is None
    beats.write(Pulse("data loading", 6, time.monotonic()), left=1)
    assert beats.read()[0].left == 1
    assert (tmp_path / "rank-0.json").stat().st_size == SIZE  # in place: a full disk takes it, too


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"rank": 0}'])
def test_a_damaged_beat_is_none(tmp_path: Path, content: bytes) -> None:
    beats = heartbeats(tmp_path)
    (tmp_path / "rank-0.json").write_bytes(content)
    assert beats.read() == {}


def test_the_beat_of_an_earlier_process_is_none(tmp_path: Path) -> None:
    beats = heartbeats(tmp_path)
    beats.write(Pulse())
    content = (tmp_path / "rank-0.json").read_text().replace(f'"pid": {os.getpid()}', '"pid": 1')
    (tmp_path / "rank-0.json").write_text(content)
    assert beats.read() == {}


def test_a_process_that_has_ended_is_gone() -> None:
    me = Peer.me(0)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    peer = Peer(1, me.host, process.pid, me.space)
    assert not peer.is_gone(me)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but nobody has looked yet
    if sys.platform == "linux":
        assert peer.is_gone(me)
    process.communicate()
    assert peer.is_gone(me)


def test_of_another_machine_or_container_nothing_is_known() -> None:
    me = Peer.me(0)
    assert not Peer(1, "elsewhere", 2**22 + 5, me.space).is_gone(me)
    assert not Peer(1, me.host, 2**22 + 5, "another container").is_gone(me)
    assert Peer(1, me.host, 2**22 + 5, me.space).is_gone(me)


@pytest.mark.parametrize(("silent", "speaks"), [(True, True), (False, False)])
def test_who_ended_for_anothers_sake_and_was_silent_has_not_told(tmp_path: Path, *, silent: bool, speaks: bool) -> None:
    me = Peer.me(0)
    dead = Peer(1, me.host, 2**22 + 5, me.space)
    peers = [me, dead, *(Peer(rank, me.host, me.pid, me.space) for rank in (2, 3))]
    heartbeats_of = [Heartbeats(tmp_path, Processes(rank, peers)) for rank in (0, 3)]
    for rank, beats in zip((0, 3), heartbeats_of, strict=True):
        beats.write(Pulse("update", 27), left=None if rank == 0 else 1, silent=silent and rank == 3)
    text = Watchdog(heartbeats_of[0], 300).blame()
    assert text is not None
    assert text.startswith("error: rank 1 (process 4194309 on ") == speaks
    assert (text == "") == (not speaks)
    assert Watchdog(heartbeats_of[1], 300).blame() == ""  # it is for rank 0 to say
