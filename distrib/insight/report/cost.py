"""What a run's network and its training cost, found out from its shapes."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from distrib.images.growth import Growth
from distrib.insight.history import Column
from distrib.insight.runs import Run
from distrib.zoo import anatomy, registry

TRAINED = 3  # times a forward pass that an image in training costs: forward, and backward twice as much


@dataclass(frozen=True)
class Cost:
    """Of a network, and of its training."""

    network: nn.Module
    """Shapes without values."""
    flops: Column
    """(updates + 1,): floating-point operations until after each update, from 0 on, about."""


def cost_of(run: Run) -> Cost:
    """Count, on the meta device. Images that begin small cost less at first."""
    settings, size = run.settings, run.preprocessing.size
    net = registry.blueprint(settings.model, classes=len(run.preprocessing.classes), image_size=size)
    asked = settings.optimization
    updates = run.checkpoint.state["data"]["train_images"] // asked.batch_size * asked.epochs
    growth = Growth.of(settings.augmentation, size=size, updates=updates)
    sides = np.array([growth.side(update) for update in range(updates)])
    each = np.zeros(updates + 1)
    for side in np.unique(sides).tolist():
        each[1:][sides == side] = TRAINED * asked.batch_size * anatomy.forward_flops(net, side)
    return Cost(net, each.cumsum())
