import dataclasses
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distrib.images.batches import MicroBatch
from distrib.images.decoding import ImageError
from distrib.images.feed import Feed, Preprocessing, TestFeed, channel_statistics
from distrib.images.sources import load
from distrib.images.splits import ImageData
from distrib.images.workers import IGNORED, Decoded, Decoding, WorkerLoader
from distrib.settings import Augmentation, Compute, Data, Optimization, Settings, SettingsError
from tests.peers import Solo

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
PATHS = [("memory", 0), ("workers", 0), ("workers", 2)]


@pytest.fixture(autouse=True)
def workers_end() -> Iterator[None]:
    """What an error has left in circles would be waited for whenever it is collected, in any later test."""
    yield
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join(timeout=60)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits", Data(data="digits", train_images=150, test_images=53))


def settings(loading: str = "memory", workers: int = 0, *, bad: str = "stop", **more: Any) -> Settings:
    return Settings(
        data=Data(data="digits", loading=loading, workers=workers, on_bad_image=bad, **more.pop("data", {})),
        augmentation=Augmentation(**({"flip": "random", "cutout": 3} | more.pop("augmentation", {}))),
        optimization=Optimization(**({"batch_size": 40, "micro_batch": 15} | more)),
    )


def same(left: Iterable[MicroBatch], right: Iterable[MicroBatch]) -> bool:
    left, right = list(left), list(right)
    assert left
    return len(left) == len(right) and all(
        np.array_equal(a.indices, b.indices) and torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_and_workers_give_the_same(digits: ImageData, workers: int) -> None:
    memory = Feed(digits, settings(), Solo(), CPU)
    decoded = Feed(digits, settings("workers", workers), Solo(), CPU)
    for epoch in (0, 1, 4):
        assert same(memory.train(epoch), decoded.train(epoch))
    assert same(memory.test, decoded.test)


def test_a_feed_gives_the_plans_images_and_their_labels(digits: ImageData) -> None:
    feed = Feed(digits, settings(augmentation={"crop": "none", "flip": "none", "cutout": 0}), Solo(), CPU)
    batches = list(feed.train(2))
    assert [len(batch.labels) for batch in batches] == [14, 13, 13] * 3
    for batch in batches:
        assert np.array_equal(batch.pixels.numpy(), digits.train.pixels[batch.indices])
        assert np.array_equal(batch.labels.numpy(), digits.train.labels[batch.indices])
    assert len({int(index) for batch in batches for index in batch.indices}) == 120
    assert not same(feed.train(2), feed.train(3))


@pytest.mark.parametrize(("loading", "workers"), PATHS)
def test_starting_in_the_middle_gives_the_rest_of_the_epoch(digits: ImageData, loading: str, workers: int) -> None:
    feed = Feed(digits, settings(loading, workers), Solo(), CPU)
    whole = list(feed.train(1))
    assert same(feed.train(1, 1), whole[feed.plan.micro_batches :])
    assert same(feed.train(1, 2), whole[2 * feed.plan.micro_batches :])
    assert list(feed.train(1, 3)) == []


def test_shares_of_two_ranks_are_the_batch_of_one(digits: ImageData) -> None:
    def pixels(rank: int, size: int) -> list[torch.Tensor]:
        feed = Feed(digits, settings(micro_batch=None), Solo(rank=rank, size=size), CPU)
        return [batch.pixels for batch in feed.train(0)]

    joined = [torch.cat(pair) for pair in zip(pixels(0, 2), pixels(1, 2), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(joined, pixels(0, 1), strict=True))


def test_a_resized_crop_does_not_depend_on_workers_or_ranks(digits: ImageData) -> None:
    varied = {"augmentation": {"crop": "resized", "policy": "trivialaugment"}, "micro_batch": None}
    alone = [batch.pixels for batch in Feed(digits, settings("workers", 0, **varied), Solo(), CPU).train(3)]
    varied = {"augmentation": {"crop": "resized", "policy": "trivialaugment"}, "micro_batch": None}

    class Second(Solo):
        def gather(self, item: object) -> list[object]:
            assert item is None  # rank 0 looks at the statistics
            return [((0.5,) * 3, (0.5,) * 3), item]

    second = Feed(digits, settings("workers", 2, **varied), Second(rank=1, size=2), CPU)
    shares = [batch.pixels for batch in second.train(3)]
    assert all(torch.equal(share, whole[20:]) for share, whole in zip(shares, alone, strict=True))


def test_normalisation_does_not_depend_on_how_images_are_loaded(digits: ImageData) -> None:
    memory, workers = (Feed(digits, settings(loading), Solo(), CPU) for loading in ("memory", "workers"))
    assert memory.preprocessing == workers.preprocessing
    assert memory.preprocessing.mean != (0.485, 0.456, 0.406)
    assert memory.facts() == workers.facts()


def test_facts_tell_other_images_of_the_same_number(digits: ImageData) -> None:
    pixels = digits.test.pixels.copy()
    pixels[3, 0, 0, 0] ^= 1
    other = dataclasses.replace(digits, test=dataclasses.replace(digits.test, pixels=pixels))
    facts, changed = (Feed(data, settings(), Solo(), CPU).facts() for data in (digits, other))
    assert json.loads(json.dumps(facts))["fingerprint"] == facts["fingerprint"]
    assert facts["fingerprint"] == {"train": digits.train.fingerprint(), "test": digits.test.fingerprint()}
    assert {name for name in facts if facts[name] != changed[name]} == {"fingerprint"}
    assert facts["fingerprint"]["train"] == changed["fingerprint"]["train"]


def test_facts_are_cheap_to_ask_for_again(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed(digits, settings(), Solo(), CPU)
    before = feed.facts()
    monkeypatch.setattr(type(digits.train), "fingerprint", lambda _: pytest.fail("hashed once more"))
    assert feed.facts() == before


def test_memory_cannot_hold_what_varies_image_by_image(digits: ImageData) -> None:
    with pytest.raises(SettingsError, match="--loading workers"):
        Feed(digits, settings(augmentation={"policy": "randaugment"}), Solo(), CPU)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_over_all_ranks_each_test_image_comes_once(digits: ImageData, size: int, loading: str) -> None:
    preprocessing = Preprocessing(8, (0.5,) * 3, (0.5,) * 3, digits.classes)
    feeds = [TestFeed(digits.test, preprocessing, settings(loading), Solo(rank, size), CPU) for rank in range(size)]
    batches = [batch for feed in feeds for batch in feed]
    seen = np.concatenate([batch.indices for batch in batches])
    assert sorted(seen.tolist()) == list(range(53))
    assert {feed.images for feed in feeds} == {53}
    for batch in batches:
        assert np.array_equal(batch.pixels.numpy(), digits.test.pixels[batch.indices])
        assert np.array_equal(batch.labels.numpy(), digits.test.labels[batch.indices])


def test_fewer_test_images_than_ranks_leave_some_ranks_without(digits: ImageData) -> None:
    preprocessing = Preprocessing(8, (0.5,) * 3, (0.5,) * 3, digits.classes)
    few = digits.test.head(2)
    counts = [len(list(TestFeed(few, preprocessing, settings(), Solo(rank, 4), CPU))) for rank in range(4)]
    assert counts == [1, 1, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_exact_scores_the_same_batches_on_any_number_of_processes(digits: ImageData, size: int) -> None:
    preprocessing = Preprocessing(8, (0.5,) * 3, (0.5,) * 3, digits.classes)
    exact = dataclasses.replace(settings(), compute=Compute(exact=True, virtual_ranks=4))
    feeds = [TestFeed(digits.test, preprocessing, exact, Solo(rank, size), CPU) for rank in range(size)]
    lists = [batch.indices.tolist() for feed in feeds for batch in feed]
    assert lists == [part.tolist() for part in np.array_split(np.arange(53), 4)]
    assert {feed.batches for feed in feeds} == {4 // size}


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[[str], ImageData]:
    """A folder of images of two classes in which one file is none."""

    def make(bad: str) -> ImageData:
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                folder = tmp_path / split / name
                folder.mkdir(parents=True)
                for shade in range(4):
                    Image.new("RGB", (8, 8), (60 * shade, 0, 9)).save(folder / f"{shade}.png")
        (tmp_path / bad).write_bytes(b"not an image")
        return load(f"folder:{tmp_path}", Data(data=f"folder:{tmp_path}"))

    return make


def used(batches: Iterable[MicroBatch]) -> tuple[int, int]:
    labels = torch.cat([batch.labels for batch in batches])
    return int((labels != IGNORED).sum()), int((labels == IGNORED).sum())


@pytest.mark.parametrize(("loading", "workers"), PATHS)
@pytest.mark.parametrize("bad", ["train/dog/2.png", "test/cat/1.png", "train/cat/0.png"])
def test_a_bad_image_ends_the_run_by_its_name(
    spoilt: Callable[[str], ImageData], loading: str, workers: int, bad: str
) -> None:
    def read() -> None:
        feed = Feed(spoilt(bad), settings(loading, workers, batch_size=8), Solo(), CPU)
        list(feed.train(0))
        list(feed.test)

    with pytest.raises(ImageError, match=bad):
        read()


@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_who_is_told_of_a_bad_image_is_told_how_to_leave_it_out(
    spoilt: Callable[[str], ImageData], loading: str
) -> None:
    data = spoilt("train/dog/2.png")
    with pytest.raises(ImageError, match="--on-bad-image skip"):
        list(Feed(data, settings(loading, batch_size=8), Solo(), CPU).train(0))


@pytest.mark.parametrize("bad", ["train/dog/2.png", "train/cat/0.png"])
def test_skipping_in_memory_leaves_the_image_out(spoilt: Callable[[str], ImageData], bad: str) -> None:
    feed = Feed(spoilt(bad), settings(bad="skip", batch_size=7), Solo(), CPU)
    assert feed.images == 7
    assert used(feed.train(0)) == (7, 0)
    labels = torch.cat([batch.labels for batch in feed.train(0)])
    assert sorted(labels.tolist()) == ([0] * 4 + [1] * 3 if "dog" in bad else [0] * 3 + [1] * 4)
    (message,) = feed.left_out
    assert bad in message


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("bad", ["train/dog/2.png", "train/cat/0.png"])
def test_skipping_with_workers_leaves_the_image_out(spoilt: Callable[[str], ImageData], bad: str, workers: int) -> None:
    feed = Feed(spoilt(bad), settings("workers", workers, bad="skip", batch_size=8), Solo(), CPU)
    batches = list(feed.train(0))
    assert used(batches) == (7, 0)
    for batch in batches:
        assert len(batch.pixels) == len(batch.labels) == len(batch.indices)
        assert batch.labels.tolist() == feed.data.train.labels[batch.indices.numpy()].tolist()
    (message,) = feed.left_out
    assert bad in message


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_of_fewer_than_two_good_images_the_bad_ones_come_marked(
    spoilt: Callable[[str], ImageData], micro_batch: int
) -> None:
    asked = settings("workers", bad="skip", batch_size=8, micro_batch=micro_batch)
    assert used(Feed(spoilt("train/dog/2.png"), asked, Solo(), CPU).train(0)) == (7, 1)


def test_compiled_networks_are_given_batches_of_one_size(spoilt: Callable[[str], ImageData]) -> None:
    asked = settings("workers", bad="skip", batch_size=8, micro_batch=4)
    asked = dataclasses.replace(asked, compute=dataclasses.replace(asked.compute, compile="default"))
    batches = list(Feed(spoilt("train/dog/2.png"), asked, Solo(), CPU).train(0))
    assert {len(batch.labels) for batch in batches} == {4}
    assert used(batches) == (7, 1)


@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_a_data_set_of_bad_images_is_told_by_all(spoilt: Callable[[str], ImageData], loading: str) -> None:
    data = spoilt("train/dog/2.png")
    for file in Path(data.train.where(0)).parents[1].rglob("*.png"):
        file.write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"none (of the training images )?could be decoded") as caught:
        Feed(data, settings(loading, bad="skip", batch_size=8, data={"image_size": 8}), Solo(), CPU)
    assert caught.value.everywhere


def test_images_that_are_left_out_are_no_part_of_the_statistics_or_examples(
    spoilt: Callable[[str], ImageData],
) -> None:
    data = spoilt("train/dog/2.png")
    memory = Feed(data, settings(bad="skip", batch_size=7), Solo(), CPU)
    policy = {"policy": "autoaugment-cifar10"}  # which varies what workers decode
    workers = Feed(data, settings("workers", bad="skip", batch_size=7, augmentation=policy), Solo(), CPU)
    assert workers.preprocessing == memory.preprocessing
    assert torch.equal(workers.examples(100), memory.examples(100))
    assert len(workers.examples(100)) == 7


@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_a_bad_test_image_is_skipped(spoilt: Callable[[str], ImageData], loading: str) -> None:
    feed = Feed(spoilt("test/cat/1.png"), settings(loading, bad="skip", batch_size=8), Solo(), CPU)
    assert used(feed.test) == (7, 0)
    (message,) = feed.left_out
    assert "test/cat/1.png" in message


@pytest.mark.parametrize(("size", "images"), [(8, 512), (64, 512), (224, 111), (4000, 1)])
def test_batches_of_test_images_are_limited_in_bytes(size: int, images: int) -> None:
    data = load("synthetic", Data(data="synthetic", image_size=8, train_images=1, test_images=600))
    asked = settings("workers", batch_size=1)
    feed = TestFeed(data.test, Preprocessing(size, (0.5,), (0.5,), data.classes), asked, Solo(), CPU)
    assert feed.batches == -(-600 // images)


def test_labels_of_a_split_are_not_spoilt_by_skipping(spoilt: Callable[[str], ImageData]) -> None:
    data = spoilt("train/dog/2.png")
    feed = Feed(data, settings("workers", bad="skip", batch_size=8), Solo(), CPU)
    list(feed.train(0))
    assert data.train.labels.min() == 0


def test_channel_statistics_are_those_of_all_pixels() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (5000, 4, 4, 3), dtype=np.uint8))
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    exact = images.double().reshape(-1, 3) / 255
    assert mean == pytest.approx(exact.mean(0).tolist(), abs=5.1e-5)
    assert std == pytest.approx(exact.std(0, unbiased=False).tolist(), abs=5.1e-5)


def test_one_colour_has_a_deviation_that_can_be_divided_by() -> None:
    _, std = channel_statistics(torch.full((3, 8, 8, 3), 7, dtype=torch.uint8))
    assert min(std) > 0


def test_normalised_images_have_mean_0_and_deviation_1(digits: ImageData) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8))
    images[..., 2] //= 2
    mean, std = channel_statistics(images)
    preprocessing = Preprocessing(8, mean, std, digits.classes)
    before = images.clone()
    found = preprocessing.normalise(images, channels_last=True)
    assert torch.equal(images, before)
    assert found.shape == (200, 3, 8, 8)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    channels = found.double().transpose(0, 1).reshape(3, -1)
    assert channels.mean(1).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert channels.std(1).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    other = preprocessing.normalise(images, channels_last=False)
    assert other.is_contiguous()
    assert torch.equal(other, found)
    half = preprocessing.normalise(images, channels_last=True, dtype=torch.bfloat16)
    assert half.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(half, found.to(torch.bfloat16))  # what autocast would make of it


def test_preprocessing_comes_back_from_json() -> None:
    made = Preprocessing(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a", "b"))
    assert Preprocessing.of(json.loads(json.dumps(dataclasses.asdict(made)))) == made


@pytest.mark.parametrize(
    ("sides", "asked", "expected"),
    [
        ((20, 20), None, 20),
        ((64, 64), None, 64),
        ((65, 65), None, 224),
        ((20, 20), 16, 16),
        ((20, 50), None, 20),
        ((1, 50), None, 8),
        ((1, 500), None, 224),
    ],
)
def test_images_keep_their_own_size_from_8_to_64_pixels(
    tmp_path: Path, sides: tuple[int, int], asked: int | None, expected: int
) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", sides).save(tmp_path / split / "cat" / "0.png")
    data = load(f"folder:{tmp_path}", Data(data=f"folder:{tmp_path}"))
    feed = Feed(data, settings("auto", data={"image_size": asked}, batch_size=1), Solo(), CPU)
    assert feed.preprocessing.size == expected
    (batch,) = feed.train(0)
    assert batch.pixels.shape == (1, expected, expected, 3)


LISTS = [np.arange(at, at + 5) for at in range(0, 60, 5)]


def loader(digits: ImageData, workers: int) -> WorkerLoader:
    return WorkerLoader(Decoding(digits.train, 8, seed=0), workers, pin=False)


def all_equal(left: Iterable[Decoded], right: Iterable[Decoded]) -> bool:
    pairs = list(zip(left, right, strict=True))
    assert pairs
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


@pytest.mark.parametrize("name", ["TERM", "INT", "USR2"])
def test_workers_go_on_when_the_whole_job_is_asked_to_stop(digits: ImageData, name: str) -> None:
    assert not multiprocessing.active_children()
    decoded = loader(digits, 2)
    batches = decoded(0, LISTS)
    found = [next(batches)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    told = [str(worker.pid) for worker in workers]
    subprocess.run(["kill", f"-{name}", *told], check=True)  # from elsewhere, as a cluster does
    found += list(batches)
    subprocess.run(["kill", f"-{name}", *told], check=True)
    assert all_equal(found, loader(digits, 0)(0, LISTS))
    assert all_equal(decoded(1, LISTS), loader(digits, 0)(1, LISTS))
    assert multiprocessing.active_children() == workers
    del decoded, batches
    gc.collect()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_no_signal_is_lost_on_the_training_process(digits: ImageData) -> None:
    batches = loader(digits, 2)(0, LISTS)
    next(batches)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL  # torch's handler would raise anywhere in training


def test_workers_end_when_the_training_process_tells_them_to(digits: ImageData) -> None:
    decoded = loader(digits, 2)
    batches = decoded(0, LISTS)
    next(batches)
    workers = multiprocessing.active_children()
    for worker in workers:  # as torch and Python do to those that are left
        worker.terminate()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0]


LEAVING = """
import sys
from distrib.images.sources import load
from distrib.images.workers import Decoding, WorkerLoader
from distrib.settings import Data
import numpy as np

decoded = WorkerLoader(Decoding(load("digits", Data(data="digits")).train, 8, seed=0), 2, pin=False)
batches = decoded(0, [np.arange(5)] * 50)
next(batches)
print("leaving", flush=True)
{how}
"""


@pytest.mark.parametrize(("how", "code"), [("", 0), ("sys.exit(75)", 75), ("raise ValueError('some mistake')", 1)])
def test_no_worker_is_left_when_the_training_process_leaves(how: str, code: int) -> None:
    command = [sys.executable, "-c", LEAVING.format(how=how)]
    # The workers hold the pipes too: this returns when the last of them has ended.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "leaving\n"
    assert done.returncode == code
    assert "worker" not in done.stderr


def test_a_worker_that_dies_is_an_error_for_a_person(digits: ImageData) -> None:
    decoded = loader(digits, 2)
    batches = decoded(0, LISTS)
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(ImageError, match=r"a process that decodes images was lost .*use fewer --workers, or give"):
        list(batches)


def test_shared_memory_without_room_is_an_error_for_a_person(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: torch.Tensor) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    with pytest.raises(ImageError, match=r"no room is left in shared memory .*fewer --workers .*--shm-size"):
        list(loader(digits, 2)(0, LISTS))
    assert all_equal(loader(digits, 0)(0, LISTS), loader(digits, 0)(0, LISTS))  # which needs none


def test_what_workers_send_lies_in_shared_memory_before_it_is_sent(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distrib.images.workers.get_worker_info", lambda: "in a worker")
    found = Decoding(digits.train, 8, seed=0)[0, np.arange(5)]
    assert found.images.is_shared()
    assert found.labels.is_shared()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_a_mistake_in_the_decoding_is_not_taken_for_a_lost_worker(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch, workers: int, kind: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise kind("a mistake")

    monkeypatch.setattr(type(digits.train), "image", fail)
    with pytest.raises(kind, match="a mistake"):
        list(loader(digits, workers)(0, LISTS))


@pytest.mark.parametrize(("loading", "workers"), PATHS)
def test_images_grow_by_the_number_of_the_update_also_when_going_on(
    digits: ImageData, loading: str, workers: int
) -> None:
    grows = {"data": {"image_size": 16}, "augmentation": {"start_size": 8}, "epochs": 3}
    feed = Feed(digits, settings(loading, workers, **grows), Solo(), CPU)
    sides = [batch.pixels.shape[1] for epoch in range(3) for batch in feed.train(epoch)]
    # 3 updates an epoch, of 3 micro-batches; full after 7.65 of 9 updates
    assert sides == [side for side in (8, 8, 8, 8, 12, 12, 12, 12, 16) for _ in range(3)]
    assert same(feed.train(1, 1), list(feed.train(1))[3:])


def test_examples_are_the_first_images_as_the_network_sees_them(digits: ImageData) -> None:
    feed = Feed(digits, settings(), Solo(), CPU)
    some = feed.examples(70)
    assert some.shape == (70, 3, 8, 8)
    pixels = torch.from_numpy(np.stack([np.asarray(digits.train.image(index)) for index in range(70)]))
    assert torch.equal(some, feed.preprocessing.normalise(pixels, channels_last=True))
    assert len(feed.examples(10**6)) == 150
