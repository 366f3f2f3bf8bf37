"""What a run is: every setting with its unit, its default and the checks that span several of them.

The names below are the flags of the command line and the keys of a recipe. This package imports neither torch nor
anything else of the project, so that a typo is answered at once.
"""

import dataclasses
import math
import os
from dataclasses import dataclass, field, fields
from typing import Any

from distrib.settings.content import LOCATED_DATA, NAMED_DATA, Augmentation, Data, Model, Policy, Stem
from distrib.settings.optimization import Optimization, Schedule
from distrib.settings.refusing import SettingsError, nearest, require
from distrib.settings.running import ADDS_UP, Comm, Compute, Lifecycle, Precision, Tracking

__all__ = [
    "LOCATED_DATA", "NAMED_DATA", "Augmentation", "Comm", "Compute", "Data", "Lifecycle", "Model", "Optimization",
    "Policy", "Precision", "Schedule", "Settings", "SettingsError", "Stem", "Tracking", "nearest", "require",
]  # fmt: skip


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
        parts = self.optimization.micro_batch is not None
        require(not (self.compute.graphs and parts), f"--micro-batch {ADDS_UP}")
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
