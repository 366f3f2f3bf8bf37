"""How it learns."""

from dataclasses import dataclass
from typing import Literal

from distrib.settings.refusing import require


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How it learns."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images of an update, of all processes together. An incomplete batch at an epoch's end is left out."""
    micro_batch: int | None = None
    """At most so many images of a process at once; gradients are accumulated over the rest. None: its whole share."""
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """Optimizer. muon: Muon for the filters of convolutions, whose norm it keeps, and SGD for the rest."""
    lr: float = 0.1
    """Learning rate at its peak."""
    bias_lr: float | None = None
    """Learning rate of biases and norms at the peak. None: --lr."""
    momentum: float = 0.9
    """Momentum of SGD, first beta of Adam. The onecycle schedule cycles it between 0.85 and 0.95 instead."""
    nesterov: bool = False
    """Nesterov's momentum (SGD; Muon always has it)."""
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
        require(self.bias_lr is None or self.bias_lr > 0, "--bias-lr is above 0")
        require(not self.nesterov or self.momentum > 0, "--nesterov needs --momentum above 0")
        require(self.optimizer != "muon" or self.momentum > 0, "--optimizer muon needs --momentum above 0")
        require(self.weight_decay >= 0, "--weight-decay is 0 or more")
        require(self.clip_norm is None or self.clip_norm > 0, "--clip-norm is above 0")
        require(self.clip_value is None or self.clip_value > 0, "--clip-value is above 0")
        require(0 <= self.label_smoothing < 1, "--label-smoothing lies in [0, 1)")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "--ema-decay lies in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate moves, and when to stop early."""

    schedule: Literal["onecycle", "cosine", "linear", "restarts", "multistep", "plateau", "constant"] = "onecycle"
    """onecycle, cosine, linear and restarts move at every update; multistep and plateau at ends of epochs."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate first rises from 1 % in a line; the schedule fills what is left."""
    pct_start: float = 0.3
    """Share of the onecycle schedule that rises, of 1."""
    min_lr: float = 0.0
    """Learning rate at which cosine, linear and restarts end and below which plateau never goes."""
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
