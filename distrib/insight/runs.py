"""A finished or unfinished run, looked at: its settings and a network with the weights of one of its checkpoints."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from distrib import command
from distrib.images.feed import SMALLEST, Preprocessing
from distrib.learning.state import load_weights
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import MANIFEST, STATE, Checkpoint
from distrib.lifecycle.folder import RunFolder
from distrib.settings import Settings, SettingsError
from distrib.zoo import registry

Which = Literal["best", "latest"]


@dataclass(frozen=True)
class Run:
    """A run's settings, a checkpoint of it and what turns images into the network's input."""

    folder: RunFolder
    settings: Settings
    checkpoint: Checkpoint
    preprocessing: Preprocessing

    def network(self, *, ema: bool = False) -> nn.Module:
        """The network with the checkpoint's weights, or with their average, in evaluation mode on the CPU.

        Raises:
            SettingsError: the run kept no average.
        """
        weights = self.checkpoint.tensors("ema" if ema else "model")
        if ema and not weights:
            raise SettingsError(f"the run {self.folder.path} kept no average of its weights (--ema-decay)")
        size, classes = self.preprocessing.size, len(self.preprocessing.classes)
        network = registry.build(self.settings.model, classes=classes, image_size=size, download=False)
        load_weights(network, weights, str(self.checkpoint.path))
        return network.eval()


def load_run(path: str | Path, which: Which = "best") -> Run:
    """Open the run folder at ``path`` at its best checkpoint, or its latest. An exported one has but one.

    Raises:
        SettingsError: there is no run, or it has no checkpoint that is whole.
    """
    folder = RunFolder(Path(path))
    try:
        if not folder.settings.is_file():
            raise SettingsError(f"{path} is no run folder: it holds no settings.yaml")
        settings = command.load(folder.settings)
        chosen = _exported(folder) or _saved(folder, which)
        return Run(folder, settings, chosen, preprocessing_of(chosen))
    except OSError as error:
        raise SettingsError(f"the run {path} cannot be read: {error}") from None


def _exported(folder: RunFolder) -> Checkpoint | None:
    """The checkpoint that an exported folder is; None if it is a run's.

    Raises:
        SettingsError: it is damaged.
    """
    if not (folder.path / MANIFEST).is_file():
        return None
    checkpoint = Checkpoint(folder.path)
    if fault := checkpoint.fault():
        raise SettingsError(f"the exported run {folder.path} is damaged: {fault}. Copy or export it again")
    return checkpoint


def _saved(folder: RunFolder, which: Which) -> Checkpoint:
    """The best or the latest checkpoint that training saved.

    Raises:
        SettingsError: there is none.
    """
    chosen = checkpoints.whole(folder.checkpoints, latest=which == "latest")
    if chosen is None:
        damaged, path = checkpoints.every(folder.checkpoints), folder.path
        raise SettingsError(
            f"every checkpoint of the run {path} is damaged" if damaged else f"the run {path} has no checkpoint yet"
        )
    return chosen


def preprocessing_of(checkpoint: Checkpoint) -> Preprocessing:
    """What its network takes for an image.

    Raises:
        SettingsError: its state does not tell.
    """
    try:
        found = Preprocessing.of(checkpoint.state["data"]["preprocessing"])
        figures = (found.size, *found.mean, *found.std)
        numbers = all(type(figure) in (int, float) and math.isfinite(figure) for figure in figures)
        shaped = type(found.size) is int and len(found.mean) == len(found.std) == 3
        sound = numbers and shaped and found.size >= SMALLEST and min(found.std) > 0
        named = found.classes and all(isinstance(name, str) for name in found.classes)
    except (KeyError, TypeError, OverflowError):
        sound, named = False, False
    if not (sound and named):
        raise SettingsError(
            f"{checkpoint.path / STATE} does not tell what images the network takes (data.preprocessing): it is not "
            "what training wrote. Remove that checkpoint, or bring its file back"
        )
    return found
