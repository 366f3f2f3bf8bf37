"""Whether a machine could train as settings ask, found out without training, downloading or leaving anything behind."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import nn

from distrib.images import sources
from distrib.images.augmentation import BatchAugmentation
from distrib.images.feed import in_memory, own_size
from distrib.images.growth import Growth
from distrib.images.order import Plan, can_share, check_shares, own_shares
from distrib.images.resident import ROOM_LEFT, SHARED_MEMORY
from distrib.images.splits import ImageData
from distrib.images.workers import Decoding, worker_count
from distrib.insight.machine import NOTE, OK, PROBLEM, Finding, unreachable
from distrib.insight.tracking import has_key, mode
from distrib.learning.rates import Rates
from distrib.learning.state import check_weights
from distrib.lifecycle.checkpoints import every, weights
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.opening import compare
from distrib.lifecycle.preflight import bytes_text, check_data, checkpoint_bytes, image_facts, room_in, written
from distrib.lifecycle.processes import Processes
from distrib.settings import Data, Settings, SettingsError
from distrib.zoo import registry
from distrib.zoo.anatomy import parameters

PREFETCHED = 2  # micro-batches that torch's loader has each worker hold ready
COLUMNS, LINES = 60, 8  # of the chart of the learning rate
LARGER = "Make it larger (docker run --shm-size=8g)"


def data_set(asked: Data, processes: Processes | None, found: list[ImageData]) -> list[Finding]:
    """Load the data set into ``found``, if it is there: on all ``processes``, which must hold the same, or on this one.

    Raises:
        SettingsError, ImageError: it is not there, or training could not use it.
    """
    place, findings = processes.together(lambda: locate(asked))[processes.rank] if processes else locate(asked)
    if processes:
        check_data({"data set": place}, processes)
    if place is None:
        return findings
    data = processes.node_first(lambda: load(place, asked)) if processes else load(place, asked)
    if processes:
        check_data(facts(data), processes)
    found.append(data)
    counts = f"{len(data.train.labels):,} training and {len(data.test.labels):,} test images"
    return [*findings, (OK, f"{data.name}: {counts}, {len(data.classes)} classes")]


def locate(asked: Data) -> tuple[str | None, list[Finding]]:
    """The data set that training takes, and what to know; None if it has to be downloaded or converted first.

    Raises:
        SettingsError: it is not there and cannot be downloaded.
    """
    name = "cifar10" if asked.data == "auto" else asked.data
    kind, _, place = name.partition(":")
    if kind == "hf" and Path(place).expanduser().is_dir():
        told = f"{name} has not been loaded on this host yet: training first converts it, minutes for a large one"
        return (name, []) if converted(place) else (None, [(NOTE, told)])
    url = address(name, asked.data_root)
    if url is None:
        return name, []
    fault = unreachable(url)
    if fault is None:
        return None, [(NOTE, f"{name} is not on this host: training first downloads it")]
    absent = f"{name} is not {'in the cache' if kind == 'hf' else f'in {asked.data_root.absolute()}'}"
    if asked.data == "auto":
        told = f"{absent} and cannot be downloaded ({fault}): training takes the embedded 'digits'. Choose with --data"
        return "digits", [(NOTE, told)]
    raise SettingsError(
        f"--data {absent} and cannot be downloaded ({fault}). Name a copy (--data-root, --data hf:PATH, --data "
        "folder:PATH), or use --data digits, which needs no download"
    )


def address(name: str, root: Path) -> str | None:
    """Whence training would first download the data set; None if it need not."""
    kind, _, place = name.partition(":")
    if kind == "hf":
        local = place.startswith(("/", ".", "~"))
        return None if local or converted(place) else os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if kind not in ("cifar10", "cifar100"):
        return None
    from torchvision import datasets  # noqa: PLC0415 - a second that other data should not pay

    cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    try:
        for train in (True, False):
            cifar(str(root), train=train)
    except (OSError, RuntimeError):
        return str(cifar.url)
    return None


def converted(place: str) -> bool:
    """Whether a Hugging Face data set lies in the cache as it is loaded."""
    import datasets  # noqa: PLC0415 - a second that other data should not pay

    local = Path(place).expanduser()
    try:
        builder = datasets.load_dataset_builder(str(local) if local.is_dir() else place)
    except Exception:  # noqa: BLE001 - the hub, the file system and parquet each raise their own kinds
        return False
    return Path(builder.cache_dir).is_dir()


def load(place: str, asked: Data) -> ImageData:
    """Load the data set, and decode an image of it."""
    try:
        data = sources.load(place, asked)
        own_size(data.train)
    except OSError as error:
        raise SettingsError(f"--data {place} cannot be read: {error}") from None
    return data


def facts(data: ImageData) -> dict[str, object]:
    """What is to be the same on all ranks: counts, classes and the images themselves."""
    return image_facts(data) | {
        "training images of SHA-256": data.train.fingerprint(),
        "test images of SHA-256": data.test.fingerprint(),
    }


def batch(settings: Settings, world: int) -> list[Finding]:
    """Whether ``world`` processes can share the global batch, and how many could.

    Raises:
        SettingsError: they cannot.
    """
    size, compute = settings.optimization.batch_size, settings.compute
    check_shares(size, compute.shares(world), virtual=compute.exact)
    own_shares(compute.shares(world), 0, world)
    share = f", {size // world} for each of {world} processes" if world > 1 else ""
    able = ", ".join(str(n) for n in range(1, min(size, 64) + 1) if can_share(size, compute.shares(n), n))
    findings = [(OK, f"{size} images an update{share}; can be shared by this many processes: {able}")]
    gpus = torch.cuda.device_count()
    if world == 1 and gpus > 1 and not can_share(size, compute.shares(gpus), gpus):
        taken = "--virtual-ranks and a batch that are multiples" if compute.exact else "a multiple"
        findings.append((NOTE, f"the {gpus} GPUs here cannot share --batch-size {size}: take {taken} of {gpus}"))
    return findings


def tracking(settings: Settings) -> list[Finding]:
    """Whether W&B would hear of the run. It never stops training, so nothing here is a problem."""
    chosen = mode(settings.tracking.wandb, os.environ)
    if chosen == "off":
        return [(OK, "off (--wandb offline or online)")]
    if chosen == "offline":
        return [(OK, "offline: `wandb sync` sends what lies in the run folder's wandb/ later")]
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    server, instead = urlsplit(url).hostname, "training goes on without W&B; --wandb offline keeps it for later"
    if not has_key(os.environ):
        return [(NOTE, f"online, but no key for {server} is configured (`wandb login`): {instead}")]
    fault = unreachable(url)
    if fault is not None:
        return [(NOTE, f"online, but {server} cannot be reached ({fault}): {instead}")]
    return [(OK, f"online: {server} answers, and a key is configured")]


def run_folder(settings: Settings) -> list[Finding]:
    """Whether the run folder can be written, and what becomes of the run of that name.

    Raises:
        SettingsError: it cannot be written, or holds a run with other settings.
    """
    asked = settings.lifecycle
    with written(asked.out):
        pass
    if asked.name is None:
        return [(OK, f"a fresh one in {asked.out}")]
    folder = RunFolder(asked.out / asked.name)
    if not folder.settings.exists():
        return [(OK, f"{folder.path} is free")]
    compare(folder, settings)
    saved = every(folder.checkpoints)
    if not saved:
        return [(OK, f"{folder.path} holds no checkpoint: its run begins anew")]
    newest = saved[-1]
    if fault := newest.fault():
        return [(NOTE, f"{newest.path} is damaged ({fault}): the run goes on from an older one, if there is one")]
    if newest.state["finished"]:
        return [(NOTE, f"the run {folder.path} is finished, and would not be trained again: give another --name")]
    return [(OK, f"the run {folder.path} is unfinished: it goes on after update {newest.state['update']:,}")]


def is_fresh(settings: Settings) -> bool:
    """Whether the run would begin, and not go on from a checkpoint."""
    asked = settings.lifecycle
    return asked.name is None or not every(RunFolder(asked.out / asked.name).checkpoints)


@dataclass(frozen=True)
class Prospect:
    """A run that could be: everything that can be built of it in a second."""

    settings: Settings
    size: int
    """Side of the images, pixels."""
    plan: Plan
    network: nn.Module
    """Shapes without values."""
    rates: Rates
    resident: int
    """Bytes of images that lie in memory; 0 if workers decode them as needed."""

    @classmethod
    def of(cls, settings: Settings, data: ImageData, world: int) -> "Prospect":
        """Build what ``world`` processes would train.

        Raises:
            SettingsError: the settings contradict one another or the data set.
        """
        asked, seed = settings.optimization, settings.compute.seed
        size = settings.data.image_size or own_size(data.train)
        BatchAugmentation.of(settings.augmentation, seed=seed, size=size, mirrored=data.mirrored)
        virtual = settings.compute.virtual_ranks if settings.compute.exact else None
        plan = Plan(len(data.train.labels), asked.batch_size, asked.micro_batch, 0, world, virtual)
        splits = (Decoding.of(data.train, size, settings), Decoding(data.test, size, seed=seed))
        resident = sum(len(one.split.labels) * size**2 * 3 for one in splits if in_memory(settings, one))
        updates, classes = plan.updates_per_epoch * asked.epochs, len(data.classes)
        first = Growth.of(settings.augmentation, size=size, updates=updates).first
        if first < size:
            registry.check_start_size(settings.model, classes=classes, image_size=size, first=first)
        network = registry.blueprint(settings.model, classes=classes, image_size=size)
        if (init := settings.lifecycle.init) is not None and is_fresh(settings):
            check_weights(network, weights(init), str(init))
        rates = Rates(asked, settings.schedule, plan.updates_per_epoch, updates)
        return cls(settings, size, plan, network, rates, resident)

    def what(self) -> list[Finding]:
        """The network and how long it trains."""
        epochs, per_epoch = self.settings.optimization.epochs, self.plan.updates_per_epoch
        network = f"{self.settings.model.model}, {parameters(self.network):,} parameters"
        return [(OK, f"{network}, {self.size}x{self.size} pixels; {epochs} epochs of {per_epoch:,} updates")]

    def disk(self) -> list[Finding]:
        """Whether there is room for its checkpoints."""
        asked, world = self.settings.lifecycle, self.plan.world
        folder = RunFolder(asked.out / asked.name if asked.name else asked.out)
        note = room_in(folder, self.network, self.settings, world, self.rates.total)
        if note is not None:
            return [(NOTE, note)]
        each = checkpoint_bytes(self.network, self.settings, world)
        return [(OK, f"room for checkpoints of about {bytes_text(each)} each")]

    def memory(self, processes: int) -> list[Finding]:
        """Whether shared memory has room for what ``processes`` of this host share in it."""
        if not SHARED_MEMORY.is_dir():
            return []
        left = shutil.disk_usage(SHARED_MEMORY).free
        told = f"{SHARED_MEMORY} has {bytes_text(left)} left"
        if self.resident:
            images = f"{bytes_text(self.resident)} of decoded images"
            if left > self.resident + ROOM_LEFT:
                return [(OK, f"{told}; {images} are shared there by the processes of a host")]
            return [(NOTE, f"{told}: the {images} would be shared in {tempfile.gettempdir()} instead. {LARGER}")]
        workers = processes * worker_count(self.settings.data.workers, processes)
        each = self.plan.share // self.plan.micro_batches * self.size**2 * 3
        if left > workers * PREFETCHED * each:
            return [(OK, f"{told}, through which {workers} workers hand over micro-batches of {bytes_text(each)}")]
        needed = f"{workers} workers need {bytes_text(workers * PREFETCHED * each)} there for the images they decode"
        return [(PROBLEM, f"{told}: {needed}. {LARGER}, or take fewer --workers or a smaller --micro-batch")]

    def curve(self) -> list[str]:
        """The planned learning rate, as numbers and as a chart."""
        rates, total, schedule = self.rates, self.rates.total, self.settings.schedule.schedule
        looked_at = range(0, total, max(1, total // 10_000))
        peak = max(looked_at, key=rates.lr)
        momenta = [rates.momentum(step) for step in looked_at]
        moving = f"{max(momenta):.3g} to {min(momenta):.3g}" if min(momenta) < max(momenta) else f"{momenta[0]:.3g}"
        told = (
            f"learning rate ({schedule}): {rates.lr(0):.3g} at first, {rates.lr(peak):.3g} at update {peak + 1:,} of "
            f"{total:,}, {rates.lr(total - 1):.3g} at last; momentum {moving}"
        )
        shown = [rates.lr(round(column * (total - 1) / (COLUMNS - 1))) for column in range(COLUMNS)]
        epochs = f"{self.settings.optimization.epochs:,}"
        return [told, *chart(shown), f"{'epoch':>8}  1{epochs:>{COLUMNS - 1}}"]


def chart(values: list[float]) -> list[str]:
    """Values from 0 up, from left to right, as lines of text."""
    top = max(values)
    heights = [round(value / top * (LINES - 1)) for value in values]
    lines = []
    for line in reversed(range(LINES)):
        label = f"{top * line / (LINES - 1):.3g}" if line in (0, LINES - 1) else ""
        lines.append(f"{label:>8} |{''.join('*' if height == line else ' ' for height in heights)}".rstrip())
    return lines
