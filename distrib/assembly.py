"""From settings to a run that can start: each part is built once, in the order in which they need one another."""

import dataclasses
import json
import os
import sys
from functools import partial
from typing import Any

import torch
from torch import nn

from distrib.images import sources
from distrib.images.feed import Feed
from distrib.images.order import check_shares, own_shares
from distrib.insight.console import Console
from distrib.insight.reporter import Reporter, write_report
from distrib.insight.telling import closing_text, header
from distrib.insight.tracking import Tracker, mode
from distrib.learning import convolution
from distrib.learning.averaging import WeightAverage
from distrib.learning.engine import Trainer
from distrib.learning.exact import Exact
from distrib.learning.optimizers import make_optimizer
from distrib.learning.patience import EarlyStop, Plateau
from distrib.learning.rates import Rates
from distrib.learning.reduction import DataParallel, Reduction
from distrib.learning.snapshots import Snapshots, Timing
from distrib.learning.state import Progress, TrainState, load_weights
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint, Retention
from distrib.lifecycle.ending import DIVERGED, FAILED, Ending, say
from distrib.lifecycle.environment import write_environment
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Pulse
from distrib.lifecycle.journal import Journal, cut_back
from distrib.lifecycle.numerics import Fingerprint, changes, common, fingerprint, numerics_of
from distrib.lifecycle.preflight import check_data, check_ranks, image_facts, room_in
from distrib.lifecycle.processes import Processes
from distrib.lifecycle.saving import Saver
from distrib.lifecycle.stopping import StopRequest, lead
from distrib.settings import Compute, Settings, SettingsError
from distrib.zoo import registry
from distrib.zoo.speednet import SpeedNet

WHITENED = 5000  # training images, to whose patches --first-weights whitened fits


def resolve(settings: Settings, processes: Processes) -> Settings:
    """Replace ``auto`` where what it stands for must not change when the run goes on: the data set and the precision.

    Rank 0 looks for the data set, downloading it if need be, and all ranks follow. First of all it is seen to it that
    they were asked for the same.
    """
    for note in check_ranks(settings, processes):
        tell(processes, note)
    place = processes.agreed(lambda: sources.locate(settings.data))
    if settings.data.data == "auto" and place == "digits":
        tell(
            processes,
            f"CIFAR-10 is not in {settings.data.data_root.absolute()} and cannot be downloaded. Training on the "
            "embedded 'digits' instead (1,797 images of 8x8 pixels). Choose with --data.",
        )
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, data=place),
        compute=dataclasses.replace(settings.compute, precision=processes.precision),
    )


def assemble(
    settings: Settings,
    processes: Processes,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    stop: StopRequest,
    pulse: Pulse,
) -> Trainer:
    """Build the parts of a run: images, feed, network, optimizer, average, rates; go on from the checkpoint, if any."""
    if checkpoint is not None and processes.device.type == "cpu":
        keep_threads(checkpoint.state.get("threads"), processes)
    here = common(processes.together(lambda: fingerprint(processes, settings.compute)))
    numerics = processes.agreed(lambda: numerics_so_far(checkpoint, settings.compute, here))
    shares = settings.compute.shares(processes.size)  # checked before minutes of decoding
    own_shares(shares, processes.rank, processes.size)
    check_shares(settings.optimization.batch_size, shares, virtual=settings.compute.exact)
    data = processes.node_first(lambda: sources.load(settings.data.data, settings.data))
    check_data(image_facts(data), processes)
    feed = Feed(data, settings, processes, processes.device)
    check_data(feed.facts(), processes)
    plan, optimization, schedule = feed.plan, settings.optimization, settings.schedule
    network = processes.node_first(lambda: make_network(settings, feed, processes.device, fresh=checkpoint is None))
    optimizer = make_optimizer(network, optimization, processes.dtype)
    average = WeightAverage(network, optimization.ema_decay) if optimization.ema_decay is not None else None
    # Accelerate prepares the network and the optimizer alone. A prepared scheduler would step once for every process, a
    # prepared loader would repeat images and fetch ahead; both are pure functions here.
    reduction = make_reduction(network, feed, processes, settings)
    prepared_optimizer = processes.accelerator.prepare_optimizer(optimizer)
    progress = Progress(
        Plateau(schedule.plateau_patience, schedule.gamma),
        EarlyStop(schedule.early_stop_patience, schedule.early_stop_delta),
    )
    scaler = processes.accelerator.scaler
    state = TrainState(network, optimizer, average, scaler, progress, reduction.compression)
    if checkpoint is not None:
        processes.together(lambda: restore(state, checkpoint, feed, processes, exact=settings.compute.exact))
    counts = {"world_size": processes.size, "threads": torch.get_num_threads()}
    facts = {"data": feed.facts(), **counts, "numerics": numerics}
    processes.agreed(lambda: clear(folder, progress))
    journal = Journal(folder.journal if processes.is_main else None)
    lifecycle = settings.lifecycle
    timing = Timing(lifecycle.save_every_minutes, processes.agreed(lambda: lead(os.environ)))
    saver = Saver(folder.checkpoints, Retention(lifecycle.keep, lifecycle.keep_every), before=journal.sync)
    return Trainer(
        settings=settings,
        processes=processes,
        folder=folder,
        feed=feed,
        reduction=reduction,
        optimizer=prepared_optimizer,
        state=state,
        rates=Rates(optimization, schedule, plan.updates_per_epoch, plan.updates_per_epoch * optimization.epochs),
        journal=journal,
        snapshots=Snapshots(state, facts, processes, saver, journal, timing),
        stop=stop,
        pulse=pulse,
    )


def make_network(settings: Settings, feed: Feed, device: torch.device, *, fresh: bool) -> nn.Module:
    """The network on the device, with its first weights if it is ``fresh``; the same on every process."""
    size, classes = feed.preprocessing.size, len(feed.preprocessing.classes)
    if feed.growth.first < size:
        registry.check_start_size(settings.model, classes=classes, image_size=size, first=feed.growth.first)
    torch.manual_seed(settings.compute.seed)
    network = registry.build(settings.model, classes=classes, image_size=size, download=fresh)
    if settings.lifecycle.init is not None and fresh:
        load_weights(network, checkpoints.weights(settings.lifecycle.init), str(settings.lifecycle.init))
    if isinstance(network, SpeedNet) and settings.model.whitened and fresh and settings.lifecycle.init is None:
        network.stem.fit(feed.examples(WHITENED))
    layout = torch.channels_last if settings.compute.channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    if settings.compute.compiled:
        set_compiler(feed.growth.sides)
        # In place: the module, its parameters and their names stay as they are. One graph for each shape: one for all
        # would depend on which shape came first, and so on where the run was interrupted.
        network.compile(dynamic=False, mode=settings.compute.compile)
    elif device.type == "cpu" and settings.compute.channels_last and (reach := convolution.on_this_cpu()):
        convolution.by_products(network, reach)
    return network


def set_compiler(sides: int) -> None:
    """Let torch keep a graph for each shape, of images of so many sides, and round where uncompiled code does."""
    from torch._dynamo import config as dynamo  # noqa: PLC0415 - a second
    from torch._inductor import config as inductor  # noqa: PLC0415

    # Whole and last batches, in both modes. By default nothing is compiled anew after the eighth, which is only logged:
    # the rest would be slow, and a restarted process, which compiles what it meets first, would compute other bits.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 2 * sides + 4)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 2 * dynamo.recompile_limit)
    # Else a backward pass that computes an activation again has it in fp32, finds the bf16 maximum nowhere in it, and
    # divides by the number of places where it was found: the gradients of SpeedNet's last pool would be NaN.
    inductor.emulate_precision_casts = True
    # Else the order of some sums is what was fastest when a process tried, and another one finds another.
    inductor.deterministic = True


def make_reduction(network: nn.Module, feed: Feed, processes: Processes, settings: Settings) -> Reduction:
    """What makes one gradient of all shares: exact, or fast."""
    compute = settings.compute
    if compute.exact:
        return Exact(network, processes, compute.virtual_ranks)
    updates = feed.plan.updates_per_epoch * settings.optimization.epochs
    parallel = DataParallel(network, processes, comm=compute.comm, updates=updates)
    parallel.warm_up(feed, channels_last=compute.channels_last, compiled=compute.compiled)
    return parallel


def restore(state: TrainState, checkpoint: Checkpoint, feed: Feed, processes: Processes, *, exact: bool) -> None:
    """Go back to the checkpoint.

    Raises:
        SettingsError: it was made with other images, so that the run would not be the same.
    """
    saved, now = checkpoint.state["data"], json.loads(json.dumps(feed.facts()))
    if saved != now:
        changed = ", ".join(name for name in now if saved.get(name) != now[name])
        raise SettingsError(
            f"the data set {feed.data.name} is not the one that {checkpoint.path} was made with ({changed} differ). "
            "Bring back the old images, or train under another --name, from these weights if you like (--init)"
        )
    state.restore(checkpoint, processes)
    if (before := checkpoint.state["world_size"]) != processes.size and not exact:
        tell(processes, f"the run was on {before} processes and is now on {processes.size}: not the same bit for bit")


def keep_threads(before: int | None, processes: Processes) -> None:
    """Compute with as many threads as before: how a sum is divided among them shows in its last bits."""
    now = torch.get_num_threads()
    if before is not None and before != now:
        torch.set_num_threads(before)
        tell(processes, f"goes on with {before} threads for each process, as before, for the same bits; not with {now}")


def numerics_so_far(checkpoint: Checkpoint | None, compute: Compute, now: Fingerprint) -> list[Fingerprint]:
    """The numerics that the run has had, each with the update ``since`` which it holds; those of ``now`` are the last.

    For rank 0, which says so if they are others than before.

    Raises:
        SettingsError: they are others, and the run is exact.
    """
    if checkpoint is None:
        return [{"since": 0} | now]
    past = numerics_of(checkpoint)
    found = changes(past[-1], {"since": past[-1].get("since")} | now)
    if not found:
        return past
    text = f"numbers may come out otherwise here than where the run was trained before ({'; '.join(found)})"
    if compute.exact and not compute.accept_inexact:
        raise SettingsError(
            f"--exact, but {text}. Go on where nothing of that differs; or with --accept-inexact, no longer exact"
        )
    how = "no longer exact" if compute.exact else "not the same to the bit"
    say(f"NOTE: {text}: from now on the run is {how}", sys.stdout)
    return [*past, {"since": checkpoint.update} | now]


def clear(folder: RunFolder, progress: Progress) -> None:
    """Cut the journal back to where the run stands."""
    if folder.journal.exists():
        try:
            cut_back(folder.journal, progress.update, progress.epoch)
        except OSError as error:
            raise SettingsError(f"{folder.journal} cannot be written: {error}. Make room") from None


def tell(processes: Processes, note: str) -> None:
    """Print a note, from rank 0."""
    if processes.is_main:
        say(f"NOTE: {note}", sys.stdout)


def begin(trainer: Trainer, *, resumed: bool, ending: Ending) -> None:
    """Open the journal's sinks, say what is about to happen, and see to it that somebody says how it ended."""
    ending.then(partial(finish, trainer))
    if not trainer.processes.is_main:
        return
    settings, progress, folder = trainer.settings, trainer.state.progress, trainer.folder
    write_environment(folder, trainer.processes, trainer.snapshots.facts["numerics"][-1])
    note = room_in(folder, trainer.state.network, settings, trainer.processes.size, trainer.rates.total)
    if note is not None:
        tell(trainer.processes, note)
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
        shown = trainer.feed.test.image if settings.tracking.report else None
        project = os.environ.get("WANDB_PROJECT") or "distrib"
        trainer.journal.add(Tracker(folder, project, wandb, config, image=shown))
    if settings.tracking.report:
        trainer.journal.add(Reporter(folder, trainer.journal.event))
    event = "resume" if resumed else "start"
    trainer.journal.event(event, update=progress.update, epoch=progress.epoch, world_size=trainer.processes.size)


def finish(trainer: Trainer, ending: Ending) -> None:
    """Note in the journal how the run ended, close it, and say what was reached and how to go on."""
    trainer.pulse.enter("ending", trainer.state.progress.update)
    if ending.together:
        trainer.reduction.close()
    if not trainer.processes.is_main:
        return
    trainer.snapshots.note(wait=True)
    progress = trainer.state.progress
    facts: dict[str, Any] = {"update": progress.update, "epoch": progress.epoch, "exit_code": ending.code}
    if trainer.stop.signal:
        facts["signal"] = trainer.stop.signal
    how = "failed" if ending.code in (FAILED, DIVERGED) else "end" if progress.finished else "stop"
    trainer.journal.event(how, **facts)
    say(closing_text(trainer, failed=how == "failed"), sys.stdout)
    if how == "end" and trainer.settings.tracking.report:
        seconds = write_report(trainer.folder, trainer.stop)
        if seconds is not None:
            trainer.journal.event("report", update=progress.update, epoch=progress.epoch, cpu_seconds=seconds)
    trainer.journal.close()
