"""Scores of a network on the test images: every image exactly once, whatever the number of processes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from distrib.images.decoding import together
from distrib.images.feed import TestFeed
from distrib.images.views import Views, views_of
from distrib.images.workers import IGNORED
from distrib.learning.averaging import averaged_statistics
from distrib.learning.meter import total
from distrib.lifecycle.processes import Processes


@dataclass(frozen=True)
class Scores:
    """Mean loss, and accuracies as fractions of 1, over ``count`` images."""

    loss: float
    top1: float
    top5: float
    count: int


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    feed: TestFeed,
    processes: Processes,
    *,
    channels_last: bool,
    views: Views = "one",
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Score the network, in evaluation mode and with statistics averaged over processes, on all test images.

    Every process scores its part and no two the same image, so no image needs to be left out of the sums afterwards.
    Every process must call it. Of several ``views`` of an image the logits are averaged. ``between`` is called before
    each batch, equally often on every process; it may raise, and the network is then as it was.

    Raises:
        ImageError: no test image could be decoded. All processes raise it together.
    """
    parts = [torch.zeros(4, device=processes.device)]
    training = network.training
    network.eval()
    try:
        with averaged_statistics(network, processes), processes.accelerator.autocast():
            batches = iter(feed)
            for _ in range(feed.batches):
                between()
                batch = next(batches, None)
                if batch is None:  # others have one more
                    continue
                logits = torch.zeros((), device=processes.device)
                for pixels, share in views_of(batch.pixels, views):
                    images = feed.preprocessing.normalise(pixels, channels_last=channels_last, dtype=processes.dtype)
                    logits = logits + share * network(images).float()
                parts.append(sums(logits, batch.labels))
    finally:
        network.train(training)
    # Rounded once: the sum does not depend on who scored which batch.
    everyone = itertools.chain.from_iterable(processes.gather(torch.stack(parts).tolist()))
    loss, top1, top5, count = map(total, zip(*everyone, strict=True))
    if count == 0:  # workers have only now tried to decode them
        raise together("none of the test images could be decoded")
    return Scores(loss / count, top1 / count, top5 / count, int(count))


def sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Loss, hits, hits among the best five, and images of a batch: (4,).

    Of equal logits the first class is taken, as ``argmax`` does, on every device; ``topk`` takes any. A class whose
    logit is no number is never hit.

    Args:
        logits: (N, classes).
        labels: (N,); ``IGNORED`` for an image that does not count.
    """
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    counted = labels != IGNORED
    own = labels.clamp(min=0)[:, None]
    said = logits.gather(1, own)
    earlier = torch.arange(logits.shape[1], device=logits.device) < own
    better = ~(logits <= said) | (logits == said) & earlier
    place = better.sum(1)
    return torch.stack([loss, ((place == 0) & counted).sum(), ((place < 5) & counted).sum(), counted.sum()])
