"""torchvision's classifiers with a head of our size. Each one's paper is named in torchvision's own documentation.

torchvision takes seconds to import, so it is imported only when one of its networks is asked for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distrib.settings import SettingsError, nearest, require
from distrib.zoo.head import head
from distrib.zoo.names import TORCHVISION

INCEPTIONS = ("googlenet", "inception_v3")
"""These have auxiliary classifiers."""


class Borrowed(nn.Module):
    """A network of torchvision's, ``net``, whose last layer is replaced by one with ``classes`` outputs."""

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        name, layer = head(net)
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, _resized(layer, classes))
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: (N, 3, H, W) to (N, classes)."""
        return self.net(images)


def _resized(layer: nn.Linear | nn.Conv2d, classes: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, classes, bias=layer.bias is not None)
    return nn.Conv2d(layer.in_channels, classes, kernel_size=1)


class Weightless(TorchFunctionMode):
    """Networks made in this context get parameters that have shapes but no values, in no time.

    Not ``torch.device("meta")``, under which RegNet fails: it computes its widths with small tensors. What else is made
    by value stays real, so the network is to be moved by ``.to("meta")`` before use.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _models() -> Any:
    from torchvision import models  # noqa: PLC0415 - it takes seconds

    return models


def classifiers() -> list[str]:
    """Names of all of torchvision's classifiers, without the prefix."""
    return _models().list_models(module=_models())


def borrow(name: str, *, classes: int, image_size: int, pretrained: bool = False, download: bool = True) -> Borrowed:
    """Build torchvision's classifier ``name`` for ``classes`` classes, with the published weights if ``pretrained``.

    Without ``download`` it is the network that those weights are for, but without them.

    Raises:
        SettingsError: torchvision has no such classifier, it cannot take images of ``image_size`` pixels, or the
            weights can be neither found nor downloaded.
    """
    known = classifiers()
    require(name in known, f"torchvision has no classifier {name!r}{nearest(name, known)}")
    weights = _models().get_model_weights(name).DEFAULT if pretrained else None
    # Some networks have positions for one size of image, which published weights fix.
    options = _options(name, weights.meta["min_size"][0] if weights else image_size)
    _check_size(name, options, image_size)
    if weights and name in INCEPTIONS:
        # torchvision insists on the auxiliaries that the weights were trained with, and scales images for them.
        options = {} if download else {**options, "transform_input": True}
    try:
        # Every process would print its own progress bar.
        net = _models().get_model(name, weights=weights if download else None, progress=False, **options)
    except OSError as error:
        raise SettingsError(_unreachable(name, weights, error)) from None
    return Borrowed(_without_auxiliaries(net), classes)


def _options(name: str, size: int) -> dict[str, Any]:
    """What a builder must be told: its defaults suit 224 pixels and auxiliary classifiers."""
    if name in INCEPTIONS:
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": size}
    return {"input_size": (size, size)} if name == "maxvit_t" else {}


def _without_auxiliaries(net: Any) -> nn.Module:
    """Published Inception weights bring a second output in training, which would make it return a pair."""
    if getattr(net, "aux_logits", False):
        net.aux_logits, net.AuxLogits = False, None
    return net


def _check_size(name: str, options: dict[str, Any], image_size: int) -> None:
    """Raise ``SettingsError`` unless an image of this size comes through; found out without computing anything."""
    try:
        with Weightless():
            net = _models().get_model(name, **options)
        with torch.no_grad():
            net.eval().to("meta")(torch.empty(1, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"--image-size {image_size} does not suit --model {TORCHVISION}{name} ({reason}); "
            "most of torchvision's networks are made for 224"
        ) from None


def _unreachable(name: str, weights: Any, error: OSError) -> str:
    folder = f"{torch.hub.get_dir()}/checkpoints"
    return (
        f"cannot download the weights of {TORCHVISION}{name}: {error}. Leave --pretrained out, "
        f"or fetch {weights.url} elsewhere and put it in {folder}"
    )
