"""Optimizers: which parameters decay, the rates of an update, and clipped gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from distrib.learning.muon import FILTERS, INERTIA, Muon
from distrib.settings import Optimization


def make_optimizer(network: nn.Module, settings: Optimization, dtype: torch.dtype = torch.float32) -> Optimizer:
    """An optimizer of the network's trainable parameters. Its rates are set before every update.

    Each group's ``lr_scale`` is its share of the rate. Muon computes in ``dtype``.

    Fused: one kernel for all parameters instead of several for each, which on a GPU also skips an update without
    anybody waiting for the verdict.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    # Weights of norms and every bias are vectors; what a layer multiplies with has two dimensions or more.
    vectors = [p for p in trainable if p.ndim <= 1]
    matrices = [p for p in trainable if p.ndim > 1]
    decay, lr = settings.weight_decay, settings.lr
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay, "lr_scale": 1.0},
        {
            "params": vectors,
            "weight_decay": decay if settings.decay_norms else 0.0,
            "lr_scale": (settings.bias_lr or lr) / lr,
        },
    ]
    if settings.optimizer == "muon":
        filters = {"params": [p for p in matrices if p.ndim == FILTERS], "lr_scale": 1.0}
        groups[0]["params"] = [p for p in matrices if p.ndim != FILTERS]
        return Muon(filters, filled(groups), lr=lr, momentum=settings.momentum, dtype=dtype)
    groups = filled(groups)
    if settings.optimizer == "sgd":
        sgd = SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
        # Where the first update is skipped, fused SGD would leave its momentum uninitialised and take it for good in
        # the next. From zero, the first update is the same.
        for parameter in trainable:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = {"adam": Adam, "adamw": AdamW}[settings.optimizer]
    return kind(groups, lr=lr, betas=(settings.momentum, 0.999), fused=True)


def filled(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that hold a parameter."""
    return [group for group in groups if group["params"]]


def set_rates(optimizer: Optimizer, lr: float, momentum: float) -> None:
    """Give every group its share of the learning rate, and the momentum or first beta, of the coming update."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group[INERTIA if INERTIA in group else "momentum"] = momentum


def clip_gradients(
    accelerator: Accelerator,
    optimizer: Optimizer,
    parameters: Iterable[nn.Parameter],
    *,
    max_norm: float | None,
    max_value: float | None,
) -> Tensor:
    """Clip by norm, then by value; return the norm over all gradients from before, a scalar on their device.

    Gradients scaled for fp16 are brought back once, first: Accelerate's two clipping methods each do it, and torch
    refuses the second time.
    """
    accelerator.unscale_gradients(optimizer)
    clipped = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in clipped if p.grad is not None])
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(clipped, max_norm, norm)
    if max_value is not None:
        nn.utils.clip_grad_value_(clipped, max_value)
    return norm


def optimizer_tensors(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as ``PARAMETER/SLOT``, such as ``fc.weight/momentum_buffer``."""
    slots = {}
    for name, parameter in network.named_parameters():
        for slot, tensor in optimizer.state.get(parameter, {}).items():
            if isinstance(tensor, Tensor):
                slots[f"{name}/{slot}"] = tensor
    return slots


def load_optimizer_tensors(network: nn.Module, optimizer: Optimizer, slots: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    parameters = dict(network.named_parameters())
    for key, saved in slots.items():
        name, _, slot = key.rpartition("/")
        parameter = parameters[name]
        # In the parameter's own memory format, so that the kernels, and so the last bits, are those of before.
        like = parameter if saved.shape == parameter.shape else saved
        optimizer.state[parameter][slot] = torch.empty_like(like, dtype=saved.dtype, device=parameter.device).copy_(
            saved
        )
