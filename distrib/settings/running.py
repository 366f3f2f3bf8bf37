"""What it runs on, how it lives, and what is shown of it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distrib.settings.refusing import require

Comm = Literal["fp32", "bf16", "powersgd"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

# As reported, CUDA graphs write each pass's gradients over those of the pass before, with an error or without:
# https://github.com/pytorch/pytorch/issues/169545, https://github.com/pytorch/pytorch/issues/96693
ADDS_UP = "adds up gradients of several passes, which --compile reduce-overhead would lose: use --compile default"


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What it runs on."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA, else Apple's MPS, else the CPU."""
    precision: Precision = "auto"
    """auto: what `accelerate launch` was told, else bf16 where the device is fast at it, else fp32."""
    channels_last: bool = True
    """Keep weights and images in NHWC order, which convolutions are faster in."""
    compile: Literal["none", "default", "reduce-overhead"] = "none"
    """torch.compile of the network, by its mode: slow to start, on CPUs rarely faster. reduce-overhead: CUDA graphs."""
    threads: int | None = None
    """CPU threads of each process. None: what the launcher gives; with --exact on the CPU, 1 everywhere."""
    keep_pages: bool = True
    """Keep the memory of freed tensors for the next update: faster on CPUs with Linux, and nothing to others."""
    seed: int = 0
    """Seed of weights, order, augmentation and dropout."""
    comm: Comm = "fp32"
    """How processes send one another gradients. bf16: half the bytes; powersgd: approximated by thin factors."""
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
        require(not self.exact or self.comm == "fp32", "--exact sends gradients as they are: leave --comm out")
        require(not (self.graphs and self.exact), f"--exact {ADDS_UP}")
        require(self.exact or not self.accept_inexact, "--accept-inexact goes with --exact")
        fp16_on_cpu = self.device == "cpu" and self.precision == "fp16"
        require(not fp16_on_cpu, "--precision fp16 needs a GPU: use bf16 or fp32 with --device cpu")

    @property
    def compiled(self) -> bool:
        """Whether the network is compiled."""
        return self.compile != "none"

    @property
    def graphs(self) -> bool:
        """Whether CUDA graphs are asked for."""
        return self.compile == "reduce-overhead"

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
    """auto: online if a key is configured, else off. With the report, its findings, too. WANDB_PROJECT: its place."""
