"""The engine: epochs, updates and what happens between them.

Its unit of work is a share of a global batch: a process has one, or several where training is exact. Everything that an
update depends on is a pure function of its number (images, augmentation, rates, dropout), or is in the checkpoint.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from distrib.images.batches import MicroBatch
from distrib.images.feed import Feed
from distrib.images.hashing import key
from distrib.images.workers import IGNORED
from distrib.learning.divergence import Guard, poisoned, review, told
from distrib.learning.meter import EpochSums, Meter, Row, batch_sums
from distrib.learning.optimizers import clip_gradients, set_rates
from distrib.learning.rates import Rates
from distrib.learning.reduction import Reduction
from distrib.learning.scoring import Scores, evaluate
from distrib.learning.snapshots import Snapshots
from distrib.learning.state import Progress, TrainState
from distrib.lifecycle.ending import Diverged
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Pulse
from distrib.lifecycle.journal import Journal, Record
from distrib.lifecycle.polling import Poll
from distrib.lifecycle.processes import Processes
from distrib.lifecycle.stopping import Stopped, StopRequest
from distrib.settings import Settings

_DROPOUT = 2  # purpose of the key


@dataclass
class Trainer:
    """The parts of a run, put together. ``optimizer`` is as Accelerate prepared it."""

    settings: Settings
    processes: Processes
    folder: RunFolder
    feed: Feed
    reduction: Reduction
    optimizer: AcceleratedOptimizer
    state: TrainState
    rates: Rates
    journal: Journal
    snapshots: Snapshots
    stop: StopRequest
    pulse: Pulse

    def __post_init__(self) -> None:
        self.meter = Meter(self.processes)
        self.guard = Guard(self.state.network)
        self.left_out: set[str] = set()
        self.poll = Poll(self.wishes, self.processes)
        self.poll_evaluating = Poll(self.wishes, self.processes)

    def fit(self) -> None:
        """Train to the end. Raises Stopped if asked to stop before."""
        self.report_left_out()
        while not self.state.progress.finished:
            self.train_epoch()
            self.end_epoch()

    def train_epoch(self) -> None:
        """Train to the end of the epoch that ``progress`` stands in."""
        progress, per_epoch = self.state.progress, self.feed.plan.updates_per_epoch
        position = progress.update - progress.epoch * per_epoch
        batches = self.feed.train(progress.epoch, position)
        self.reduction.network.train()
        self.meter.restart()
        for _ in range(position, per_epoch):
            self.train_step(batches)
            self.stop.at_once = False  # from now on there is something to save
            self.between_updates(last=progress.update % per_epoch == 0)

    def next_share(self, batches: Iterator[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches of the next share; the time they take counts as waiting for data."""
        self.pulse.enter("data loading", self.state.progress.update + 1)
        asked = time.perf_counter()
        share = list(islice(batches, self.feed.plan.micro_batches))
        self.meter.waited += time.perf_counter() - asked
        self.pulse.enter("update", self.state.progress.update + 1)
        return share

    def train_step(self, batches: Iterator[MicroBatch]) -> None:
        """One update, from this process's shares of the global batch."""
        optimization, progress, plan = self.settings.optimization, self.state.progress, self.feed.plan
        self.guard.remember()
        self.reduction.begin(progress.update)
        set_rates(self.optimizer, self.lr(), self.rates.momentum(progress.update))
        sums = torch.zeros(len(plan.own), 3, device=self.processes.device)
        for own, number in zip(sums, plan.own, strict=True):
            share = self.next_share(batches)
            # Dropout draws from the update's number, not from what was drawn before: nothing to save and to restore.
            seed_generator(self.processes.device, key(self.settings.compute.seed, progress.update, number, _DROPOUT))
            for count, batch in enumerate(share, 1):
                with self.reduction.computing(last=count == len(share)):
                    own.add_(self.forward_backward(batch))
        checksum = self.reduction.finish()
        norm = clip_gradients(
            self.processes.accelerator,
            self.optimizer,
            self.state.network.parameters(),
            max_norm=optimization.clip_norm,
            max_value=optimization.clip_value,
        )
        self.snapshots.copied()  # from here on what is being saved changes
        bad = self.guard.step(self.optimizer, norm)
        if self.state.compression is not None:
            self.state.compression.undo(bad)
        self.optimizer.zero_grad(set_to_none=True)
        progress.update += 1
        progress.test_top1 = None
        if self.state.average is not None:
            self.state.average.update(progress.update)
        self.meter.add(sums, norm, checksum)

    def forward_backward(self, batch: MicroBatch) -> Tensor:
        """Add a micro-batch's gradients; return its sums of (loss, hits, images)."""
        optimization = self.settings.optimization
        layout = self.settings.compute.channels_last
        prepared = self.feed.preprocessing
        images = prepared.normalise(batch.pixels, channels_last=layout, dtype=self.processes.dtype)
        logits = self.reduction.network(images)
        loss = F.cross_entropy(
            logits,
            batch.labels,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=optimization.label_smoothing,
        )
        # Gradients become the mean over shares; with this factor it is the sum over the images of the global batch,
        # divided by its size, those that are left out included, however it is divided into micro-batches.
        self.processes.accelerator.backward(poisoned(loss, self.feed.plan.shares / optimization.batch_size))
        return batch_sums(loss, logits, batch.labels)

    def lr(self) -> float:
        """Learning rate of the coming update."""
        return self.rates.lr(self.state.progress.update, self.state.progress.plateau.scale)

    def wishes(self) -> list[float]:
        """What this process wants all of them to do now: to stop, to save."""
        return [float(self.stop.signal is not None), float(self.snapshots.due)]

    def between_updates(self, *, last: bool) -> None:
        """Report, save and stop, when it is time; the ``last`` update of an epoch is saved after its evaluation."""
        update, when = self.state.progress.update, self.settings.lifecycle
        stop, due = self.poll()
        save = stop or due or update % when.save_every == 0
        if not (last or save or update % when.log_every == 0):
            return
        self.report()
        if last:
            return
        if save:
            self.save(wait=stop)
        if stop:
            raise Stopped

    def report(self) -> None:
        """Write the updates since the last report to the journal, and answer those that were not finite."""
        progress, scale = self.state.progress, self.state.progress.plateau.scale
        self.pulse.enter("sharing numbers", progress.update)
        rows, seconds, waited = self.meter.look()
        speed = round(len(rows) * self.settings.optimization.batch_size / seconds, 1)
        shared = {"images_per_second": speed, "data_wait_share": round(waited, 4), "memory": self.processes.memory}
        progress.sums.seconds += seconds
        records = []
        for update, row in enumerate(rows, progress.update - len(rows) + 1):
            if row.finite:
                progress.sums.add(row.loss, row.hits, row.images)
            record = update_record(update, progress.epoch, row, self.rates, scale)
            records.append(record | shared)
        self.journal.write(records)
        self.snapshots.note(wait=False)
        scaler = self.state.scaler
        self.answer(*review(rows, progress, self.feed, None if scaler is None else scaler.get_scale()))

    def answer(self, bad: list[Record], streak: int) -> None:
        """Do what ``--on-divergence`` says about bad updates. All processes know the same ones.

        Raises:
            Diverged: the run is to end for them, or there were too many in a row.
        """
        if not bad:
            return
        wanted, limit = self.settings.lifecycle.on_divergence, self.settings.lifecycle.max_bad_updates
        if wanted == "stop" or streak >= limit:
            for found in bad:
                self.journal.event("diverged", **found)
            raise Diverged(told(bad[0], streak))
        for found in bad:
            self.journal.event("skip", reason="not finite", **found)
        if wanted == "rollback":
            self.snapshots.roll_back()

    def end_epoch(self) -> None:
        """Evaluate, note the scores, save; raises Stopped if asked to stop and there is more to do."""
        progress = self.state.progress
        self.stop.at_once = False
        lr = self.rates.lr(progress.update - 1, progress.plateau.scale)
        started = time.perf_counter()
        try:
            scores = self.score(self.state.network)
            average = self.score(self.state.average.network) if self.state.average is not None else None
        except Stopped:
            self.save(wait=True)
            raise
        seconds = progress.sums.seconds + time.perf_counter() - started
        progress.epoch += 1
        progress.test_top1 = scores.top1
        progress.plateau.observe(scores.loss)
        progress.early_stop.observe(scores.top1)
        progress.finished = progress.epoch >= self.settings.optimization.epochs or progress.early_stop.spent
        self.journal.write([epoch_record(progress, scores, average, lr=lr, seconds=seconds)])
        progress.sums = EpochSums()
        self.report_left_out()
        better = progress.best_top1 is None or scores.top1 > progress.best_top1
        progress.best_top1 = scores.top1 if better else progress.best_top1
        self.save(wait=progress.finished)
        if better:
            self.journal.event("best", update=progress.update, epoch=progress.epoch, test_top1=scores.top1)

    def score(self, network: nn.Module) -> Scores:
        """Score a network on the test images. Raises Stopped if asked to stop meanwhile."""
        layout = self.settings.compute.channels_last
        return evaluate(network, self.feed.test, self.processes, channels_last=layout, between=self.between_batches)

    def between_batches(self) -> None:
        """Between two batches of an evaluation: raises Stopped if asked to stop."""
        self.pulse.enter("evaluation", self.state.progress.update)
        if self.poll_evaluating()[0]:
            raise Stopped

    def report_left_out(self) -> None:
        """Note images that could not be decoded since the last time, as all processes together saw them."""
        if self.settings.data.on_bad_image != "skip":
            return
        seen = set().union(*self.processes.gather(self.feed.left_out))
        if seen - self.left_out:
            examples = sorted(seen - self.left_out)[:10]
            self.journal.event("skip", update=self.state.progress.update, images=len(seen), examples=examples)
            self.left_out = seen

    def save(self, *, wait: bool = False) -> None:
        """Save a checkpoint, in the background unless told to ``wait``."""
        self.pulse.enter("saving", self.state.progress.update)
        self.snapshots.save(wait=wait)
        self.meter.restart()


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout draws from on the device: to seed all takes 100 times as long."""
    generators = {"cuda": torch.cuda.manual_seed, "mps": torch.mps.manual_seed}
    generators.get(device.type, torch.default_generator.manual_seed)(seed)


def update_record(update: int, epoch: int, row: Row, rates: Rates, scale: float) -> Record:
    """The journal's line on an update (counted from 1) of an epoch (from 0)."""
    record = {
        "kind": "update",
        "update": update,
        "epoch": epoch + 1,
        "loss": row.mean_loss,
        "lr": rates.lr(update - 1, scale),
        "momentum": rates.momentum(update - 1),
        "grad_norm": row.grad_norm,
    }
    return record if row.checksum < 0 else record | {"checksum": row.checksum}


def epoch_record(progress: Progress, scores: Scores, average: Scores | None, *, lr: float, seconds: float) -> Record:
    """The journal's line on the epoch that ``progress`` has just finished."""
    sums = progress.sums
    record: dict[str, Any] = {
        "kind": "epoch",
        "epoch": progress.epoch,
        "update": progress.update,
        "train_loss": sums.loss / sums.images if sums.images else math.nan,  # if every update was left out
        "train_top1": sums.hits / sums.images if sums.images else math.nan,
        "test_loss": scores.loss,
        "test_top1": scores.top1,
        "test_top5": scores.top5,
        "test_count": scores.count,
        "lr": lr,
        "seconds": round(seconds, 3),
    }
    if average is not None:
        record |= {"ema_test_loss": average.loss, "ema_test_top1": average.top1}
    return record
