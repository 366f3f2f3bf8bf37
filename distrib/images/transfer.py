"""Tensors on their way to the device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, at once if it is a GPU of NVIDIA's: it has taken what is not pinned before this returns.

    Apple's may still read from memory that has been given to something else by then
    (https://github.com/pytorch/pytorch/issues/189690).
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
