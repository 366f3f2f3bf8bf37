"""What a run is: every setting with its unit, its default and the checks that span several of them.

The names below are the flags of the command line and the keys of a recipe. This module imports neither torch nor
anything else of the project, so that a typo is answered at once.
"""

import dataclasses
import difflib
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Stem = Literal["auto", "cifar", "imagenet"]
Loading = Literal["auto", "memory", "workers"]
Crop = Literal["auto", "pad", "resized", "none"]
Flip = Literal["auto", "none", "random", "alternating"]
Policy = Literal[
    "none", "autoaugment-cifar10", "autoaugment-imagenet", "autoaugment-svhn", "randaugment", "trivialaugment"
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

NAMED_DATA = ("auto", "cifar10", "cifar100", "digits", "synthetic")
LOCATED_DATA = ("folder:", "hf:")


class SettingsError(ValueError):
    """The user asked for something that cannot be. Ends the command with exit code 2 and this message alone."""


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def require(condition: object, message: str) -> None:
    """Raise ``SettingsError(message)`` unless ``condition`` is true."""
    if not condition:
        raise SettingsError(message)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained."""

    model: str = "resnet18"
    """Network: a name that `distrib models` lists, or torchvision/NAME."""
    width: int | None = None
    """Channels of the first stage; the others follow in proportion. None: the network's own."""
    stem: Stem = "auto"
    """First layers of a ResNet: cifar (3x3, no pool) or imagenet (7x7, pool). auto: cifar up to 64 pixels."""
    pretrained: bool = False
    """Start from torchvision's published weights (torchvision/NAME only; they are downloaded)."""

    def __post_init__(self) -> None:
        require(self.width is None or self.width > 0, "--width is a number of channels: at least 1")
        if not self.model.startswith("torchvision/"):
            require(not self.pretrained, f"--pretrained goes with --model torchvision/NAME, not with {self.model}")
        else:
            require(self.width is None, "--width applies to our own networks: leave it out with torchvision/NAME")
            require(self.stem == "auto", "--stem applies to our own ResNets: leave it out with torchvision/NAME")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What it is trained on."""

    data: str = "auto"
    """auto, cifar10, cifar100, digits, synthetic, folder:PATH or hf:NAME_OR_PATH. auto: CIFAR-10, else digits."""
    data_root: Path = Path("data")
    """Folder in which named data sets are looked for and downloaded to."""
    image_size: int | None = None
    """Side of the square images the network sees, pixels. None: their own up to 64 pixels, else 224."""
    train_images: int | None = None
    """Use only the first so many training images. None: all."""
    test_images: int | None = None
    """Use only the first so many test images. None: all."""
    loading: Loading = "auto"
    """memory: decoded once, as one uint8 tensor; workers: decoded as needed. auto: memory to 64 pixels and 2 GiB."""
    workers: int | None = None
    """Decoding processes for each training process. None: its share of the cores."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """An image that cannot be decoded ends the run, or is left out and counted in the journal."""

    def __post_init__(self) -> None:
        known = self.data in NAMED_DATA or self.data.startswith(LOCATED_DATA)
        choices = ", ".join((*NAMED_DATA, "folder:PATH", "hf:NAME_OR_PATH"))
        require(known, f"--data {self.data} is unknown{nearest(self.data, NAMED_DATA)} Choose among {choices}")
        require(self.data not in LOCATED_DATA, f"--data {self.data} needs a place after the colon")
        require(self.image_size is None or self.image_size >= 8, "--image-size is at least 8 pixels")
        require(self.train_images is None or self.train_images > 0, "--train-images is at least 1")
        require(self.test_images is None or self.test_images > 0, "--test-images is at least 1")
        require(self.workers is None or self.workers >= 0, "--workers is 0 or more")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are varied. Every draw is a function of (seed, epoch, image), never of a process."""

    crop: Crop = "auto"
    """pad: shifted by up to the padding; resized: a random part (8 to 100 % of the area). auto: pad up to 64 pixels."""
    crop_padding: int | None = None
    """Padding of `--crop pad` on each side, pixels. None: an eighth of the image size."""
    padding_mode: Literal["zero", "reflect"] = "zero"
    """What the padding of `--crop pad` holds."""
    flip: Flip = "auto"
    """Mirror images left to right: at random, or alternating every epoch. auto: random, but none for digits."""
    cutout: int = 0
    """Side of a square blacked out at a random place, pixels. 0: none."""
    policy: Policy = "none"
    """torchvision's automatic augmentation, drawn anew for each image."""

    def __post_init__(self) -> None:
        require(self.crop_padding is None or self.crop_padding > 0, "--crop-padding is at least 1 pixel")
        pads = self.crop in ("auto", "pad")
        require(pads or self.crop_padding is None, f"--crop-padding goes with --crop pad, not {self.crop}")
        require(pads or self.padding_mode == "zero", f"--padding-mode goes with --crop pad, not {self.crop}")
        require(self.cutout >= 0, "--cutout is 0 or a number of pixels")


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How it learns."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images of an update, of all processes together. An incomplete batch at an epoch's end is left out."""
    micro_batch: int | None = None
    """At most so many images of a process at once; gradients are accumulated over the rest. None: its whole share."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer."""
    lr: float = 0.1
    """Learning rate at its peak."""
    momentum: float = 0.9
    """Momentum of SGD, first beta of Adam. The onecycle schedule cycles it between 0.85 and 0.95 instead."""
    nesterov: bool = False
    """Nesterov's momentum (SGD)."""
    weight_decay: float = 5e-4
    """Weight decay: added to the gradient by SGD and Adam, decoupled in AdamW."""
    decay_norms: bool = True
    """Decay the weights and biases of norms, and every other bias, too."""
    clip_norm: float | None = None
    """Scale gradients down to this norm over all parameters. None: never."""
    clip_value: float | None = None
    """Cut each gradient element to this size, after --clip-norm. None: never."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, of 1."""
    ema_decay: float | None = None
    """Also keep an average of the weights that decays by this factor per update, and evaluate it. None: no average."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, "--epochs is at least 1")
        require(self.batch_size > 0, "--batch-size is at least 1")
        require(self.micro_batch is None or self.micro_batch > 0, "--micro-batch is at least 1")
        require(self.lr > 0, "--lr is above 0")
        require(0 <= self.momentum < 1, "--momentum lies in [0, 1)")
        require(not self.nesterov or self.optimizer == "sgd", f"--nesterov goes with sgd, not {self.optimizer}")
        require(not self.nesterov or self.momentum > 0, "--nesterov needs --momentum above 0")
        require(self.weight_decay >= 0, "--weight-decay is 0 or more")
        require(self.clip_norm is None or self.clip_norm > 0, "--clip-norm is above 0")
        require(self.clip_value is None or self.clip_value > 0, "--clip-value is above 0")
        require(0 <= self.label_smoothing < 1, "--label-smoothing lies in [0, 1)")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "--ema-decay lies in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate moves, and when to stop early."""

    schedule: Literal["onecycle", "cosine", "restarts", "multistep", "plateau", "constant"] = "onecycle"
    """onecycle, cosine and restarts move at every update; multistep and plateau at ends of epochs."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate first rises from 1 % in a line; the schedule fills what is left."""
    pct_start: float = 0.3
    """Share of the onecycle schedule that rises, of 1."""
    min_lr: float = 0.0
    """Learning rate at which cosine and restarts end and below which plateau never goes."""
    restart_epochs: int = 10
    """Epochs of the first cosine of the restarts schedule."""
    restart_multiplier: int = 2
    """Each following cosine of the restarts schedule is so many times longer."""
    milestones: tuple[int, ...] = ()
    """Epochs after which the multistep schedule multiplies the rate by --gamma."""
    gamma: float = 0.1
    """Factor of the multistep and plateau schedules."""
    plateau_patience: int = 10
    """Epochs without a better test loss before the plateau schedule multiplies the rate."""
    early_stop_patience: int | None = None
    """End the run after so many epochs without a better test accuracy. None: never."""
    early_stop_delta: float = 1e-4
    """By how much an accuracy must be better for --early-stop-patience to count it, of 1."""

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, "--warmup-epochs is 0 or more")
        require(0 < self.pct_start < 1, "--pct-start lies in (0, 1)")
        require(self.min_lr >= 0, "--min-lr is 0 or more")
        require(self.restart_epochs > 0, "--restart-epochs is at least 1")
        require(self.restart_multiplier > 0, "--restart-multiplier is at least 1")
        rising = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        require(rising, f"--milestones are rising epochs above 0, not {self.milestones}")
        multistep = self.schedule == "multistep"
        require(not multistep or bool(self.milestones), "--schedule multistep needs --milestones, such as 60 80")
        require(multistep or not self.milestones, f"--milestones goes with --schedule multistep, not {self.schedule}")
        require(0 < self.gamma < 1, "--gamma lies in (0, 1)")
        require(self.plateau_patience >= 0, "--plateau-patience is 0 or more")
        require(self.early_stop_patience is None or self.early_stop_patience > 0, "--early-stop-patience is at least 1")
        require(self.early_stop_delta >= 0, "--early-stop-delta is 0 or more")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What it runs on."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA, else Apple's MPS, else the CPU."""
    precision: Precision = "auto"
    """auto: what `accelerate launch` was told, else bf16 where the device is fast at it, else fp32."""
    channels_last: bool = True
    """Keep weights and images in NHWC order, which convolutions are faster in."""
    compile: bool = False
    """Compile the network with torch.compile: slow to start, and on CPUs rarely faster."""
    threads: int | None = None
    """CPU threads of each process. None: what the launcher gives; with --exact on the CPU, 1 everywhere."""
    keep_pages: bool = True
    """Keep the memory of freed tensors for the next update: faster on CPUs with Linux, and nothing to others."""
    seed: int = 0
    """Seed of weights, order, augmentation and dropout."""
    exact: bool = False
    """The same weights, bit for bit, on any number of processes that divides --virtual-ranks."""
    virtual_ranks: int = 8
    """Shares that --exact cuts every batch into, a power of two: the most processes the run can ever use."""
    accept_inexact: bool = False
    """Go on with an --exact run on a device or with versions that compute other last bits: it is then no longer so."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "--seed lies in [0, 4294967295]")
        require(self.threads is None or self.threads > 0, "--threads is at least 1")
        power = self.virtual_ranks > 0 and self.virtual_ranks.bit_count() == 1
        require(power, f"--virtual-ranks {self.virtual_ranks} is no power of two: 1, 2, 4, 8, ...")
        require(self.exact or self.virtual_ranks == 8, "--virtual-ranks goes with --exact")
        require(self.exact or not self.accept_inexact, "--accept-inexact goes with --exact")
        fp16_on_cpu = self.device == "cpu" and self.precision == "fp16"
        require(not fp16_on_cpu, "--precision fp16 needs a GPU: use bf16 or fp32 with --device cpu")

    def shares(self, world: int) -> int:
        """Shares that ``world`` processes cut every batch into: one each, or the virtual ranks."""
        return self.virtual_ranks if self.exact else world


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """How a run lives."""

    name: str | None = None
    """Run name. An unfinished run of that name goes on where it was saved. None: a fresh name."""
    out: Path = Path("runs")
    """Folder that holds the run folders."""
    init: Path | None = None
    """Start from the weights of this run folder, checkpoint folder or safetensors file."""
    save_every: int = 500
    """Updates between checkpoints; one is also saved after every epoch."""
    save_every_minutes: float | None = None
    """Also save a checkpoint once so many minutes have passed since the last. None: never by time."""
    keep: int = 2
    """Newest checkpoints that stay, besides the best."""
    keep_every: int | None = None
    """Checkpoints whose update is a multiple of this stay, too. None: only those of --keep, and the best."""
    log_every: int = 20
    """Updates between looks at the losses, for which the device is waited for."""
    on_divergence: Literal["stop", "skip", "rollback"] = "stop"
    """Updates that are not finite are left out; then end with code 3, go on, or go back to the last checkpoint."""
    max_bad_updates: int = 10
    """So many updates in a row that are not finite end the run with code 3, whatever --on-divergence."""
    hang_timeout: float = 300.0
    """Seconds without progress after which the run says which rank is where, and ends. An hour at first."""

    def __post_init__(self) -> None:
        plain = self.name is None or (self.name and Path(self.name).name == self.name and not self.name.startswith("."))
        require(plain, f"--name '{self.name}' is not a plain folder name: choose one without slashes or a leading dot")
        held = self.name is None or (self.name.isprintable() and len(os.fsencode(self.name)) < 256)
        require(held, f"--name {self.name!r:.80} is no name for a folder: too long, or with what cannot be printed")
        require(self.save_every > 0, "--save-every is at least 1")
        minutes = self.save_every_minutes
        require(minutes is None or minutes > 0, "--save-every-minutes is above 0")
        require(self.keep > 0, "--keep is at least 1: a run without a checkpoint cannot go on")
        require(self.keep_every is None or self.keep_every > 0, "--keep-every is at least 1")
        require(self.log_every > 0, "--log-every is at least 1")
        require(self.max_bad_updates > 0, "--max-bad-updates is at least 1")
        require(self.hang_timeout >= 5, "--hang-timeout is at least 5 seconds")


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What is shown of it, from rank 0."""

    report: bool = True
    """Draw the curves into report.html of the run folder while training, and all of the report once it is finished."""

    wandb: Literal["auto", "off", "offline", "online"] = "auto"
    """auto: online if a key is configured, else off."""
    wandb_project: str = "distrib"
    """Project of Weights & Biases in which the run appears."""
    wandb_tables: bool = True
    """With the report, also show its confusion matrix, table of classes and test images on Weights & Biases."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that makes a run what it is."""

    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimization: Optimization = field(default_factory=Optimization)
    schedule: Schedule = field(default_factory=Schedule)
    compute: Compute = field(default_factory=Compute)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        epochs, schedule = self.optimization.epochs, self.schedule
        require(
            schedule.warmup_epochs < epochs,
            f"--warmup-epochs {schedule.warmup_epochs} leaves nothing of --epochs {epochs}",
        )
        require(
            schedule.min_lr <= self.optimization.lr,
            f"--min-lr {schedule.min_lr} is above --lr {self.optimization.lr}",
        )
        endless = [k for k, v in self.flat().items() if isinstance(v, float) and not math.isfinite(v)]
        require(not endless, f"--{' and --'.join(endless).replace('_', '-')} must be a finite number")
        late = [m for m in schedule.milestones if m >= epochs]
        require(not late, f"--milestones {late} would never be reached: --epochs is {epochs}")
        warm = self.lifecycle.init is not None and self.model.pretrained
        require(not warm, "--init and --pretrained both name the first weights: give one of them")

    def flat(self) -> dict[str, Any]:
        """Every setting under its own name, as plain YAML and JSON types."""
        groups = (getattr(self, group.name) for group in fields(self))
        return {key: plain(value) for group in groups for key, value in dataclasses.asdict(group).items()}


def plain(value: Any) -> Any:
    """The YAML and JSON form of a setting's value: paths become text, tuples become lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value
