"""A finished or unfinished run, looked at: its settings and a network with the weights of one of its checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from distrib import command
from distrib.images.feed import Preprocessing
from distrib.learning.state import load_weights
from distrib.lifecycle import checkpoints
from distrib.lifecycle.checkpoints import Checkpoint
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


def load_run(path: Path, which: Which = "best") -> Run:
    """Open the run folder at ``path`` at its best checkpoint, or its latest.

    Raises:
        SettingsError: there is no run, or it has no checkpoint that is whole.
    """
    folder = RunFolder(path)
    if not folder.settings.is_file():
        raise SettingsError(f"{path} is no run folder: it holds no settings.yaml")
    settings = command.load(folder.settings)
    chosen = checkpoints.whole(folder.checkpoints, latest=which == "latest")
    if chosen is None:
        damaged = len(checkpoints.every(folder.checkpoints))
        raise SettingsError(
            f"every checkpoint of the run {path} is damaged" if damaged else f"the run {path} has no checkpoint yet"
        )
    return Run(folder, settings, chosen, Preprocessing.of(chosen.state["data"]["preprocessing"]))
