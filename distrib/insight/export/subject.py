"""What is exported: a run's network, and what to know of it where the run is far away."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distrib import __version__
from distrib.images.cropping import crop_share
from distrib.insight.runs import Run
from distrib.learning.copies import on_host
from distrib.lifecycle.checkpoints import Tensors


@dataclass(frozen=True)
class Subject:
    """A run at one of its checkpoints, and the network with its weights, float32 on the CPU, in evaluation mode."""

    run: Run
    ema: bool
    """Whether the weights are the average of the weights."""
    network: nn.Module

    @classmethod
    def of(cls, run: Run, *, ema: bool) -> "Subject":
        """Take the checkpoint's weights, or their average.

        Raises:
            SettingsError: the run kept no average.
        """
        return cls(run, ema, run.network(ema=ema))

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.folder.path.resolve().name

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """What the run's network says of images (n, size, size, 3) uint8: (n, classes) float32."""
        channels_last = self.run.settings.compute.channels_last
        return self.network(self.run.preprocessing.normalise(images, channels_last=channels_last))

    def tensors(self) -> Tensors:
        """Weights and statistics, by name."""
        return on_host(self.network.state_dict())

    def facts(self) -> dict[str, Any]:
        """All that is needed to use the network, and where it comes from, as JSON types."""
        prepared, state = self.run.preprocessing, self.run.checkpoint.state
        return {
            "classes": list(prepared.classes),
            "image_size": prepared.size,
            "crop_share": crop_share(prepared.size),
            "mean": list(prepared.mean),
            "std": list(prepared.std),
            "network": dataclasses.asdict(self.run.settings.model),
            "run": self.name,
            "update": state["update"],
            "epoch": state["epoch"],
            "weights": "ema" if self.ema else "model",
            "distrib": __version__,
        }
