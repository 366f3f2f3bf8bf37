"""What a batch adds to the scores, and test images of which none is left."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distrib.images.batches import MicroBatch
from distrib.images.decoding import ImageError
from distrib.images.workers import IGNORED
from distrib.learning.scoring import evaluate, sums

ALONE = SimpleNamespace(
    device=torch.device("cpu"),
    dtype=torch.float32,
    size=1,
    accelerator=SimpleNamespace(autocast=contextlib.nullcontext),
    gather=lambda item: [item],
)


class Feed(list):
    """Test images, in one batch."""

    batches = 1
    preprocessing = SimpleNamespace(normalise=lambda pixels, **_: pixels.float() / 255)


def hits(logits: list[float], label: int) -> tuple[float, float]:
    """Top-1 and top-5 of one image."""
    _, top1, top5, count = sums(torch.tensor([logits]), torch.tensor([label])).tolist()
    assert count == 1
    return top1, top5


@pytest.mark.parametrize(("label", "expected"), [(3, (1, 1)), (7, (0, 1)), (0, (0, 1)), (2, (0, 1)), (4, (0, 0))])
def test_of_equal_logits_the_first_class_is_said(label, expected):
    """As argmax says, of which the report is drawn; logits of bf16 are often equal, and topk says any of them."""
    logits = [0.0] * 10
    logits[3] = logits[7] = 1.0
    assert hits(logits, label) == expected


@pytest.mark.parametrize("label", range(3))
def test_fewer_than_five_classes(label):
    assert hits([1.0, 3.0, 2.0], label) == (label == 1, 1)


@pytest.mark.parametrize("label", range(6))
def test_what_is_no_number_is_no_hit(label):
    assert hits([math.nan] * 6, label) == (0, 0)
    assert hits([math.nan, 0, 0, 0, 0, 1], label)[0] == 0


def test_an_image_left_out_adds_nothing():
    logits = torch.eye(4)
    kept = sums(logits, torch.tensor([0, IGNORED, 3, IGNORED]))
    assert torch.equal(kept, sums(logits[[0, 2]], torch.tensor([0, 3])))
    assert kept[3] == 2


def test_no_test_image_that_could_be_decoded_is_told_by_all():
    black = MicroBatch(torch.arange(2), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.full((2,), IGNORED))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ImageError, match="none of the test images could be decoded") as caught:
        evaluate(network, Feed([black]), ALONE, channels_last=True)
    assert caught.value.everywhere


def test_of_several_views_the_logits_are_averaged():
    torch.manual_seed(0)
    pixels, labels = torch.randint(0, 256, (64, 8, 8, 3), dtype=torch.uint8), torch.arange(64) % 3
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    feed = Feed([MicroBatch(torch.arange(64), pixels, labels)])
    scores = evaluate(network, feed, ALONE, channels_last=True, views="mirror")
    with torch.inference_mode():
        straight, mirrored = (network(way.float() / 255) for way in (pixels, pixels.flip(2)))
        losses = [F.cross_entropy(logits, labels).item() for logits in (straight, mirrored, (straight + mirrored) / 2)]
    assert min(abs(losses[2] - losses[0]), abs(losses[2] - losses[1])) > 1e-3  # it tells left from right
    assert scores.loss == pytest.approx(losses[2])
    assert scores.top1 == ((straight + mirrored).argmax(1) == labels).float().mean().item()
