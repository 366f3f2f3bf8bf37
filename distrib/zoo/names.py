"""The networks that have a name here. No torch, so that a misspelt one is answered at once."""

from distrib.settings import nearest, require

TORCHVISION = "torchvision/"
"""Prefix of the networks borrowed from torchvision."""

IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
"""Depths of the ImageNet ResNets, which have four stages and a choice of stem."""
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
"""Depths of the CIFAR ResNets, which have three stages."""

STEMMED = tuple(f"{family}{depth}" for family in ("resnet", "plain") for depth in IMAGENET_DEPTHS)
"""Names that --stem applies to."""
OWN = (
    *STEMMED,
    *(f"{family}{depth}" for family in ("resnet", "plain") for depth in CIFAR_DEPTHS),
    "resnet9",
    "simplecnn",
    "speednet",
)
"""Every name of our own networks."""


def check(model: str) -> None:
    """Raise ``SettingsError``, with the nearest name, unless ``model`` names a network.

    What follows ``torchvision/`` is not looked at: only torchvision knows, and it takes seconds to import.
    """
    known = model in OWN or model.startswith(TORCHVISION)
    require(known, f"--model {model} is not among the networks that `distrib models` lists{nearest(model, OWN)}")
