"""Muon: filters move by their momentum made orthogonal, so that every direction of it counts alike."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

FILTERS = 4  # dimensions of a convolution's weights
INERTIA = "inertia"  # the momentum of a group whose steps are made orthogonal
STEPS = 3  # of the iteration: enough for the largest and most of the others to come near 1
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # they raise small singular values fastest, at the price of 0.7 to 1.2 for 1


class Muon(SGD):
    """Muon for the filters of convolutions, and SGD with Nesterov's momentum for all other parameters.

    The filters of a convolution are brought to the norm sqrt(filters) before each step: the batch norm that follows
    undoes their scale, and weights that grow would only make all further steps smaller. Networks without such norms are
    not what this is for.

    ``filters`` is a parameter group of four-dimensional weights, ``others`` are groups as SGD takes them. The
    orthogonal steps are computed in ``dtype``. An update with ``found_inf`` of 1 leaves everything as it was, as fused
    SGD does.

    Sources: https://kellerjordan.github.io/posts/muon/ and, for the norm of the weights,
    https://github.com/KellerJordan/cifar10-airbench.
    """

    def __init__(
        self, filters: dict[str, Any], others: list[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype
    ) -> None:
        self._dtype = dtype
        # To SGD the filters' group has no momentum: what it is given as their gradient holds it already.
        turned = {**filters, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0, INERTIA: momentum}
        super().__init__([turned, *others], lr=lr, momentum=momentum, nesterov=True, fused=True)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make the filters' gradients orthogonal and step."""
        bad = getattr(self, "found_inf", None)
        for group in self.param_groups:
            if INERTIA in group:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._turn(weight, group[INERTIA], bad)
        super().step(closure)

    def _turn(self, weight: Tensor, momentum: float, bad: Tensor | None) -> None:
        """Take the gradient into the momentum, and put the orthogonal step in its place."""
        gradient, buffer = weight.grad, self.state[weight]["momentum_buffer"]
        assert gradient is not None
        moved = buffer * momentum + gradient
        ahead = gradient + momentum * moved
        scale = weight.shape[0] ** 0.5 / weight.norm().clamp(min=1e-7)  # filters of zeros begin to move, too
        if bad is not None:
            moved = torch.where(bad.bool(), buffer, moved)
            scale = torch.where(bad.bool(), 1.0, scale)
        buffer.copy_(moved)
        weight.mul_(scale)
        # Columns of any order are turned alike. In that of memory they are a matrix without a copy.
        order = (0, 2, 3, 1) if weight.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2, 3)
        rows = gradient.permute(order)
        rows.copy_(orthogonal(ahead.permute(order).flatten(1), self._dtype).view_as(rows))


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix with all its singular values near 1, by a Newton-Schulz iteration in ``dtype``."""
    first, third, fifth = COEFFICIENTS
    if dtype == torch.float16:  # where small gradients would lose their digits, or become 0
        matrix = matrix / (matrix.norm() + 1e-7)
    x = matrix.to(dtype)
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(STEPS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
