"""Images in memory, shared by the processes of a node: what all must do alike, and where there is no room."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distrib.images import resident
from distrib.images.decoding import ImageError
from distrib.images.resident import Resident
from distrib.images.splits import ArraySplit
from tests.peers import Rank, Threads

LABELS = np.arange(6, dtype=np.int64)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Spoilt(ArraySplit):
    """Images of 8 pixels, to be scaled, of which some cannot be decoded."""

    bad: tuple[int, ...] = ()

    def image(self, index: int) -> Image.Image:
        if index in self.bad:
            raise ImageError(f"image {index} is none")
        return super().image(index)


def split(*bad: int) -> Spoilt:
    found = Spoilt("some", PIXELS, LABELS)
    object.__setattr__(found, "bad", bad)
    return found


WORLDS = [(1, 1), (2, 2), (2, 1)]


@pytest.mark.parametrize("nodes", WORLDS)
def test_all_ranks_have_the_same_images(nodes):
    found = Threads(*nodes).run(lambda rank: Resident(split(), 8, rank, skip=False))
    assert len(found) == sum(nodes)
    for one in found:
        assert torch.equal(one.images, torch.from_numpy(PIXELS))


@pytest.mark.parametrize("nodes", WORLDS)
def test_an_image_that_is_bad_on_one_node_is_bad_for_all(nodes):
    def load(rank: Rank, *, skip: bool) -> Resident:
        first = rank.rank == rank.local_rank
        return Resident(split() if first else split(3), 12, rank, skip=skip)

    world = Threads(*nodes)
    for error in world.run(lambda rank: load(rank, skip=False)):
        assert isinstance(error, ImageError)
        assert error.everywhere
        assert "image 3 is none (1 such images; --on-bad-image skip" in str(error)
    for found in world.run(lambda rank: load(rank, skip=True)):
        assert found.labels.tolist() == [0, 1, 2, 4, 5]
        assert len(found.images) == 5
        assert found.left_out == ["image 3 is none"]


def test_a_node_without_room_is_told_by_all(monkeypatch):
    real, refused = resident._file, []

    def file(size: int) -> str:
        if not refused:
            refused.append(size)
            raise OSError(28, "No space left on device")
        return real(size)

    monkeypatch.setattr(resident, "_file", file)
    for error in Threads(2, 2).run(lambda rank: Resident(split(), 8, rank, skip=False)):
        assert isinstance(error, ImageError)
        assert error.everywhere
        assert "no room to share 1,152 bytes of images between processes: " in str(error)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for files that do not fit into shared memory."""
    monkeypatch.setattr(resident, "SHARED_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_file_without_room_is_an_error_before_anybody_writes(elsewhere):
    with pytest.raises(OSError, match=r"too large|No space left"):
        resident._file(2**60)
    assert list(elsewhere.iterdir()) == []


def test_memory_that_a_killed_process_left_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(resident, "ROOM_LEFT", 0)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    space = resident._space()
    left, own = (tmp_path / f"distrib-{space}-{pid}-x" for pid in (child.pid, os.getpid()))
    of_a_container = tmp_path / f"distrib-{space + 1}-{child.pid}-x"  # where that number may be somebody
    for file in (left, own, of_a_container):
        file.touch()
    made = Path(resident._file(100))
    assert made.stat().st_size == 100
    assert sorted(tmp_path.iterdir()) == sorted([own, of_a_container, made])
