"""What every rank does in the tests of this folder; writes what it saw to ``OUT/TASK-rank.json``.

Started as ``worker.py OUT FOLDER``, where FOLDER holds images, by as many processes as a test asks for.
"""

import dataclasses
import hashlib
import json
import math
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from distrib import assembly
from distrib.images import sources
from distrib.images.batches import MicroBatch
from distrib.images.feed import Feed
from distrib.learning import engine
from distrib.learning.engine import Trainer
from distrib.lifecycle import checkpoints
from distrib.lifecycle.ending import Diverged, Ending
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Pulse
from distrib.lifecycle.processes import Processes, start
from distrib.settings import (
    Augmentation,
    Compute,
    Data,
    Lifecycle,
    Model,
    Optimization,
    Schedule,
    Settings,
    SettingsError,
)

SCHEDULES = {
    "onecycle": Schedule(schedule="onecycle"),
    "cosine": Schedule(schedule="cosine", min_lr=0.001, warmup_epochs=1),
    "restarts": Schedule(schedule="restarts", restart_epochs=1, restart_multiplier=2),
    "multistep": Schedule(schedule="multistep", milestones=(2,)),
    "plateau": Schedule(schedule="plateau", plateau_patience=0, gamma=0.5),
    "constant": Schedule(schedule="constant", warmup_epochs=0.5),
}


class Perceptron(nn.Module):
    """A network without batch statistics: what it learns depends on the global batch alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1))


def feeds(folder: Path) -> dict[str, Settings]:
    """The ways of loading images, with everything that varies them."""
    varied = Augmentation(flip="random", cutout=5, padding_mode="reflect")
    decoded = Augmentation(flip="random", cutout=5, crop="resized", policy="trivialaugment")
    optimization = Optimization(batch_size=16, micro_batch=3)
    memory = Data(data="digits", train_images=100)
    made = {"memory": Settings(data=memory, augmentation=varied, optimization=optimization)}
    for workers in (0, 2):
        data = Data(data=f"folder:{folder}", image_size=48, workers=workers)
        made[f"workers-{workers}"] = Settings(data=data, augmentation=decoded, optimization=optimization)
    return made


def seen_images(processes: Processes, folder: Path) -> dict[str, list]:
    """(update, index, SHA-256) of every image of two epochs, for each way of loading."""
    found: dict[str, list] = {}
    for name, settings in feeds(folder).items():
        feed = Feed(sources.load(settings.data.data, settings.data), settings, processes, torch.device("cpu"))
        rows = []
        for epoch in range(2):
            for number, batch in enumerate(feed.train(epoch)):
                update = epoch * feed.plan.updates_per_epoch + number // feed.plan.micro_batches
                digests = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in batch.pixels]
                rows += [[update, int(i), d] for i, d in zip(batch.indices, digests, strict=True)]
        found[name] = rows
    return found


def refused(processes: Processes) -> str:
    """What this rank is told when the last one alone refuses something."""

    def call() -> None:
        if processes.rank == processes.size - 1:
            raise SettingsError(f"no such folder on rank {processes.rank}")

    try:
        processes.together(call)
    except SettingsError as error:
        return str(error)
    return "nothing"


def turns(processes: Processes, out: Path) -> int:
    """How many processes had made something when it was this one's turn."""

    def call() -> int:
        made = len(list(out.glob("made-*")))
        (out / f"made-{processes.rank}").touch()
        return made

    return int(processes.node_first(call))


def sharing(processes: Processes) -> int:
    """What this rank finds in the images after rank 0 has changed a pixel of its own."""
    settings = Settings(data=Data(data="digits"))
    feed = Feed(sources.load("digits", settings.data), settings, processes, torch.device("cpu"))
    if processes.is_main:
        feed.source.loader.images[0, 0, 0, 0] = 77
    processes.gather(None)
    return int(feed.source.loader.images[0, 0, 0, 0])


def trainer(processes: Processes, out: Path, settings: Settings, network: nn.Module | None = None) -> Trainer:
    """A trainer of a small network on digits."""
    if network is not None:
        assembly.registry = SimpleNamespace(build=lambda *_, **__: network)
    folder = RunFolder(out / "run")
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    stop = SimpleNamespace(signal=None)
    return assembly.assemble(settings, processes, folder, None, stop, Pulse())


def learned(processes: Processes, out: Path) -> dict[str, object]:
    """Weights after an epoch, with and without accumulation, and how often gradients were summed over processes."""
    found: dict[str, object] = {}
    for micro in (None, 5):
        torch.manual_seed(1)
        settings = Settings(
            data=Data(data="digits", train_images=200),
            optimization=Optimization(
                batch_size=32, micro_batch=micro, clip_norm=0.5, label_smoothing=0.1, ema_decay=0.9
            ),
            compute=Compute(precision="fp32"),
        )
        made = trainer(processes, out, settings, Perceptron())
        summed = [0]
        if processes.size > 1:
            made.reduction.network.register_comm_hook(summed, count_and_sum)
        made.train_epoch()
        found[str(micro)] = {
            "weights": made.state.network.fc.weight.flatten().tolist()[:500],
            "average": made.state.average.network.fc.weight.flatten().tolist()[:500],
            "updates": made.state.progress.update,
            "summed": summed[0],
            "train_loss": made.state.progress.sums.loss,
            "scores": dataclasses.astuple(made.score(made.state.network)),
        }
    return found


def count_and_sum(counter: list[int], bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """What DDP does with a bucket of gradients, counted."""
    counter[0] += 1
    mean = bucket.buffer() / torch.distributed.get_world_size()
    return torch.distributed.all_reduce(mean, async_op=True).get_future().then(lambda done: done.value()[0])


def used_rates(processes: Processes, out: Path) -> dict[str, list]:
    """The rate and momentum that the optimizer really had in every update, and the test losses, by schedule."""
    found: dict[str, list] = {}
    for name, schedule in SCHEDULES.items():
        settings = Settings(
            data=Data(data="digits", train_images=64),
            optimization=Optimization(batch_size=16, epochs=4, lr=0.3),
            schedule=schedule,
            compute=Compute(precision="fp32"),
        )
        torch.manual_seed(1)
        made = trainer(processes, out, settings, Perceptron())
        rows, losses = [], []
        inner = made.optimizer.step
        score = made.score

        def step(made: Trainer = made, rows: list = rows, inner=inner) -> None:
            group = made.optimizer.param_groups[0]
            rows.append([group["lr"], group["momentum"]])
            inner()

        def noted(network: nn.Module, losses: list = losses, score=score) -> object:
            scores = score(network)
            losses.append(scores.loss)
            return scores

        made.optimizer.step, made.score = step, noted
        made.fit()
        found[name] = [rows, losses]
    return found


def statistics(processes: Processes, out: Path) -> dict[str, object]:
    """Running statistics before and after an evaluation, and what a checkpoint holds of them."""
    settings = Settings(
        data=Data(data="digits", train_images=64),
        optimization=Optimization(batch_size=16, epochs=1),
        compute=Compute(precision="fp32"),
    )
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, model="simplecnn", width=4))
    assembly.registry = real_registry
    made = trainer(processes, out, settings)
    made.train_epoch()
    own = {n: b.flatten().tolist() for n, b in made.state.network.named_buffers() if "running" in n}
    made.score(made.state.network)
    after = {n: b.flatten().tolist() for n, b in made.state.network.named_buffers() if "running" in n}
    groups = processes.gather(made.state.tensors(processes))[0]  # rank 0 alone holds them
    saved = {n: groups["model"][n].flatten().tolist() for n in own}
    return {"own": own, "after": after, "saved": saved}


def diverged(processes: Processes, out: Path) -> dict[str, object]:
    """What each policy does, and each rank sees, when the loss of the last rank alone is not a number in update 5."""
    found: dict[str, object] = {}
    for policy in ("stop", "skip", "rollback"):
        settings = Settings(
            model=Model(model="simplecnn", width=4),
            data=Data(data="digits", train_images=160),
            optimization=Optimization(batch_size=16, epochs=1, ema_decay=0.9),
            compute=Compute(precision="fp32"),
            lifecycle=Lifecycle(on_divergence=policy, log_every=2, save_every=2),
        )
        made = trainer(processes, out / policy, settings)
        weights, inner = [], made.forward_backward

        def forward_backward(batch, made: Trainer = made, weights: list = weights, inner=inner) -> torch.Tensor:
            weights.append([p.flatten()[:50].tolist() for p in made.state.network.parameters()])
            bad = made.state.progress.update == 4 and processes.rank == processes.size - 1
            engine.F = SimpleNamespace(cross_entropy=nan_entropy) if bad else F
            try:
                return inner(batch)
            finally:
                engine.F = F

        made.forward_backward = forward_backward
        error = ""
        try:
            made.train_epoch()
        except Diverged as raised:
            error = str(raised)
        made.snapshots.note(wait=True)
        made.journal.close()
        statistics = [b.tolist() for n, b in made.state.network.named_buffers() if "running" in n]
        after = [p.flatten()[:50].tolist() for p in made.state.network.parameters()]
        found[policy] = {"error": error, "weights": [*weights, after], "statistics": statistics}
    return found


def saving(processes: Processes, out: Path) -> dict[str, object]:
    """What happens in which order in the update after a save, whose copies are held up until it is waited for them."""
    settings = Settings(
        model=Model(model="simplecnn", width=4),
        data=Data(data="digits", train_images=160),
        optimization=Optimization(batch_size=16, epochs=1, ema_decay=0.9),
        compute=Compute(precision="fp32"),
    )
    made = trainer(processes, out, settings)
    batches = made.feed.train(0, 0)
    made.train_step(batches)
    made.snapshots._copies._thread.submit((gate := threading.Event()).wait, 60)  # before all copies
    before = {name: weight.flatten().tolist() for name, weight in made.state.network.state_dict().items()}
    order, forward_backward, step = ["saved"], made.forward_backward, made.optimizer.step
    copied = made.snapshots.copied

    def computed(batch: MicroBatch) -> torch.Tensor:
        loss = forward_backward(batch)
        order.append(f"computed, {len(checkpoints.every(made.folder.checkpoints))} written")
        return loss

    def waited() -> None:
        order.append("waited")
        gate.set()
        copied()

    def stepped() -> None:
        copying = made.snapshots._copies._begun.values()
        order.append(f"stepped, copied: {all(copy.done() for copy in copying)}")
        step()

    made.save()
    made.forward_backward, made.snapshots.copied, made.optimizer.step = computed, waited, stepped
    made.train_step(batches)
    made.snapshots.settle()
    made.journal.close()
    saved = checkpoints.every(made.folder.checkpoints)[0].tensors("model")
    return {"order": order, "before": before, "saved": {name: saved[name].flatten().tolist() for name in before}}


def nan_entropy(*arguments: object, **options: object) -> torch.Tensor:
    """A loss that is not a number, whose gradient is one."""
    return F.cross_entropy(*arguments, **options) + math.nan


real_registry = assembly.registry


def main() -> None:
    out, folder = Path(sys.argv[1]), Path(sys.argv[2])
    processes = start(Compute(device="cpu", precision="fp32"))
    found = {
        "num_processes": processes.accelerator.num_processes,
        "refused": refused(processes),
        "turns": turns(processes, out),
        "sharing": sharing(processes),
        "images": seen_images(processes, folder),
        "learned": learned(processes, out),
        "rates": used_rates(processes, out),
        "statistics": statistics(processes, out),
        "diverged": diverged(processes, out),
        "saving": saving(processes, out / "saving"),
    }
    (out / f"{processes.rank}.json").write_text(json.dumps(found))
    processes.close(Ending())


if __name__ == "__main__":
    main()
