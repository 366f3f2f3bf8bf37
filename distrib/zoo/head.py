"""The head of a network: its last layer, which makes classes of the pooled vector of an image."""

from torch import Tensor, nn


def head(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Its name and the layer: in every network of ours or torchvision's, the last of its kind to be registered."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def features_and_logits(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the head of ``network`` sees of each image, and what it makes of that, in one pass.

    Args:
        network: of :func:`distrib.zoo.registry.build`, neither wrapped nor compiled.
        images: (N, 3, H, W), normalised.

    Returns:
        The pooled vectors (N, C) and the logits (N, classes), of the types that the network computes in.
    """
    seen: list[Tensor] = []
    _, layer = head(network)
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = network(images)
    finally:
        handle.remove()
    (features,) = seen
    # SqueezeNet's head is a convolution; the mean over the image comes after it.
    return (features.mean(dim=(2, 3)) if features.ndim == 4 else features), logits
