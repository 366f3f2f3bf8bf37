"""From settings to a run that can start: each part is built once, in the order in which they need one another."""

import dataclasses
import os
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distrib.images import sources
from distrib.images.feed import Feed
from distrib.images.splits import ImageData
from distrib.insight.console import Console
from distrib.insight.telling import closing_text, header
from distrib.insight.tracking import Tracker, mode
from distrib.learning.averaging import WeightAverage
from distrib.learning.engine import Trainer
from distrib.learning.optimizers import make_optimizer
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.rates import Rates
from distrib.learning.state import Progress, TrainState, load_weights
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.folder import RunFolder, write_environment
from distrib.lifecycle.journal import Journal
from distrib.lifecycle.processes import Processes
from distrib.lifecycle.stopping import StopRequest
from distrib.settings import Settings
from distrib.zoo import registry


def resolve(settings: Settings, processes: Processes) -> Settings:
    """Replace ``auto`` where what it stands for must not change when the run goes on: the data set and the precision.

    Rank 0 looks for the data set, downloading it if need be, and all ranks follow.
    """
    place = processes.agreed(lambda: sources.locate(settings.data))
    if processes.is_main and settings.data.data == "auto" and place == "digits":
        print(
            f"NOTE: CIFAR-10 is not in {settings.data.data_root.absolute()} and cannot be downloaded. Training on the "
            "embedded 'digits' instead (1,797 images of 8x8 pixels). Choose with --data.",
            flush=True,
        )
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, data=place),
        compute=dataclasses.replace(settings.compute, precision=processes.precision),
    )


def assemble(settings: Settings, processes: Processes, folder: RunFolder, stop: StopRequest) -> Trainer:
    """Build the parts of a run: images, feed, network, optimizer, average, rates."""
    feed = Feed(_load_data(settings, processes), settings, processes, processes.device)
    plan, optimization, schedule = feed.plan, settings.optimization, settings.schedule
    network = make_network(settings, feed, processes)
    optimizer = make_optimizer(network, optimization)
    average = WeightAverage(network, optimization.ema_decay) if optimization.ema_decay is not None else None
    # The network and the optimizer alone. A prepared scheduler would step once for every process, a prepared loader
    # would repeat images and fetch ahead; both are pure functions here.
    prepared, prepared_optimizer = processes.accelerator.prepare(network, optimizer)
    if isinstance(prepared, DistributedDataParallel):
        prepared.broadcast_buffers = False  # statistics are averaged when somebody looks at them
    progress = Progress(
        Plateau(schedule.plateau_patience, schedule.gamma),
        EarlyStop(schedule.early_stop_patience, schedule.early_stop_delta),
    )
    total = plan.updates_per_epoch * optimization.epochs
    return Trainer(
        settings=settings,
        processes=processes,
        folder=folder,
        feed=feed,
        network=prepared,
        optimizer=prepared_optimizer,
        state=TrainState(network, optimizer, average, processes.accelerator.scaler, progress),
        rates=Rates(optimization, schedule, per_epoch=plan.updates_per_epoch, total=total),
        journal=Journal(folder.journal if processes.is_main else None),
        stop=stop,
    )


def make_network(settings: Settings, feed: Feed, processes: Processes) -> nn.Module:
    """The network with its first weights, on the device; the same on every process."""
    torch.manual_seed(settings.compute.seed)
    size, classes = feed.preprocessing.size, len(feed.preprocessing.classes)
    if settings.model.pretrained and processes.local_rank != 0:
        processes.gather(None)  # the first process of the node downloads, the others find the file
    network = registry.build(settings.model, classes=classes, image_size=size)
    if settings.model.pretrained and processes.local_rank == 0:
        processes.gather(None)
    if settings.lifecycle.init is not None:
        load_weights(network, checkpoints.weights(settings.lifecycle.init), str(settings.lifecycle.init))
    layout = torch.channels_last if settings.compute.channels_last else torch.contiguous_format
    network = network.to(processes.device, memory_format=layout)  # type: ignore[call-overload]
    if settings.compute.compile:
        network.compile()  # in place: the module, its parameters and their names stay as they are
    return network


def begin(trainer: Trainer, checkpoint: Checkpoint | None, ending: Ending) -> None:
    """Go on from the checkpoint if there is one, open the journal's sinks and say what is about to happen."""
    if checkpoint is not None:
        trainer.state.restore(checkpoint, trainer.processes)
    if not trainer.processes.is_main:
        return
    settings, progress, folder = trainer.settings, trainer.state.progress, trainer.folder
    ending.then(partial(finish, trainer))
    write_environment(folder, trainer.processes)
    wandb = mode(settings.tracking.wandb, os.environ)
    console = Console(
        header(trainer, wandb),
        epochs=settings.optimization.epochs,
        updates_per_epoch=trainer.feed.plan.updates_per_epoch,
        first_update=progress.update,
        best=progress.best_top1 if progress.best_top1 is not None else -1.0,
    )
    trainer.journal.add(console)
    if wandb != "off":
        config = settings.flat()
        trainer.journal.add(Tracker(folder.path, folder.name, settings.tracking.wandb_project, wandb, config))
    event = "resume" if checkpoint is not None else "start"
    trainer.journal.event(event, update=progress.update, epoch=progress.epoch, world_size=trainer.processes.size)


def finish(trainer: Trainer, code: int) -> None:
    """Note in the journal how the run ended, close it, and say what was reached and how to go on."""
    progress = trainer.state.progress
    facts: dict[str, Any] = {"update": progress.update, "epoch": progress.epoch, "exit_code": code}
    if trainer.stop.signal:
        facts["signal"] = trainer.stop.signal
    trainer.journal.event("end" if progress.finished else "stop", **facts)
    trainer.journal.close()
    print(closing_text(trainer), flush=True)


def _load_data(settings: Settings, processes: Processes) -> ImageData:
    """The data set; the first process of a node goes first, so that caches are written once."""
    if processes.local_rank != 0:
        processes.gather(None)
    try:
        return sources.load(settings.data.data, settings.data)
    finally:
        if processes.local_rank == 0:
            processes.gather(None)
