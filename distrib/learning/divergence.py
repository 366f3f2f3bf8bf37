"""Updates that go wrong: kept from the weights on the device, explained and answered when somebody looks."""

import math

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from distrib.images.feed import Feed
from distrib.learning.meter import Row
from distrib.learning.state import Progress
from distrib.lifecycle.journal import Record


class Guard:
    """Steps the optimizer unless the gradients are not finite, and then puts the network's statistics back.

    The verdict is a number on the device that nobody waits for. It is the same on all processes, as they hold the same
    summed gradients; a loss that is not finite gets there by :func:`poisoned`.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._kept: list[Tensor] = []

    def remember(self) -> None:
        """Keep the statistics, which the coming forward passes change. By data type, each as one tensor."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in self._network.buffers():  # looked up each time: to move a module replaces its buffers
            groups.setdefault(buffer.dtype, []).append(buffer)
        self._buffers = list(groups.values())
        self._kept = [torch.cat([buffer.flatten() for buffer in group]) for group in self._buffers]

    @torch.no_grad()
    def step(self, optimizer: AcceleratedOptimizer, norm: Tensor) -> Tensor:
        """Step if the gradients' ``norm``, a scalar, is finite; return whether it is not, a boolean scalar there."""
        bad = ~norm.isfinite()
        if optimizer.scaler is None:  # else fp16's scaler does the same, from the same gradients
            # What torch's own scaler hands to fused optimizers: their kernels leave everything as it is if it is 1.
            optimizer.optimizer.found_inf = bad.to(torch.float32)
        # Some versions' kernels for Apple's devices do not look at it: there the verdict is waited for.
        if bad.device.type != "mps" or not bad.item():
            optimizer.step()
        elif optimizer.scaler is not None:
            optimizer.scaler.update()  # to a smaller scale, as a step would have done
        for group, kept in zip(self._buffers, self._kept, strict=True):
            chosen = torch.where(bad, kept, torch.cat([buffer.flatten() for buffer in group]))
            parts = chosen.split([buffer.numel() for buffer in group])
            torch._foreach_copy_(group, [p.view_as(b) for p, b in zip(parts, group, strict=True)])
        return bad


def poisoned(loss: Tensor, factor: float) -> Tensor:
    """``loss * factor``, whose gradients are not finite if the loss is not.

    The gradient of an infinite loss may well be finite. So that no collective is needed to tell the others, a process's
    bad loss travels in the sum of the gradients.
    """
    return loss * torch.where(loss.detach().isfinite(), factor, math.nan)


def review(rows: list[Row], progress: Progress, feed: Feed, scale: float | None) -> tuple[list[Record], int]:
    """What is known of the bad ones among the last updates, and the longest series of them; ``progress`` counts on.

    ``scale`` is that of fp16's scaler, None in other precisions.
    """
    bad, streak = [], 0
    for update, row in enumerate(rows, progress.update - len(rows) + 1):
        fine = row.finite or overflowed(row, scale)
        progress.bad_updates = 0 if fine else progress.bad_updates + 1
        streak = max(streak, progress.bad_updates)
        bad += [] if fine else [finding(update, progress.epoch, row, feed)]
    return bad, streak


def overflowed(row: Row, scale: float | None) -> bool:
    """Whether a bad update is fp16's own overflow, after which the scaler tries a smaller ``scale``, and no divergence.

    Below a scale of 1 it is the gradients that are too large.
    """
    return scale is not None and scale >= 1 and not row.shares


def finding(update: int, epoch: int, row: Row, feed: Feed) -> Record:
    """What is known of a bad update (counted from 1) of an epoch (from 0): who met it first, on which images."""
    position = update - 1 - epoch * feed.plan.updates_per_epoch
    numbers = list(row.shares) or list(range(feed.plan.shares))
    shares = [feed.plan.share_of(feed.seed, epoch, position, number) for number in numbers]
    images = [int(index) for share in shares for part in share for index in part]
    ranks = "virtual_ranks" if feed.plan.virtual_ranks else "ranks"
    return {"update": update, "loss": row.mean_loss, "grad_norm": row.grad_norm, ranks: numbers, "images": images}


def told(found: Record, streak: int) -> str:
    """A finding that ends the run, for a person."""
    kind, ranks = ("virtual rank", found["virtual_ranks"]) if "virtual_ranks" in found else ("rank", found["ranks"])
    who = f"{kind} {ranks[0]}" if len(ranks) == 1 else f"{len(ranks)} {kind}s"
    many = f", one of {streak} in a row" if streak > 1 else ""
    return (
        f"update {found['update']} is not finite: loss {found['loss']:g}, gradient norm {found['grad_norm']:g}, on the "
        f"images of {who}{many}. It was left out of the weights; the journal names the images. Lower --lr or give "
        "--clip-norm in a new run; --on-divergence skip or rollback goes on with this one"
    )
