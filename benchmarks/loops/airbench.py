"""The record holder's recipe for a few epochs of CIFAR-10, in plain PyTorch on a CPU.

    python benchmarks/loops/airbench.py PARQUET_FOLDER [--epochs N] [--seed N]

Prints JSON: the seconds of training alone, and the test accuracy, of 1, from one view of each image and from six.

Re-expressed from the paper and the published settings of airbench94_muon (https://arxiv.org/abs/2404.00498,
https://github.com/KellerJordan/cifar10-airbench), whose program needs a GPU: whitened patches, identity
initialisation, alternating flip, reflected shifts by up to 2 pixels, label smoothing 0.2, batches of 2000, Muon for
the filters and SGD for the rest, all rates falling in a line to zero. Network, orthogonal steps and decoding are ours,
which are tested on their own; the loop is not.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrib.images import sources
from distrib.images.resident import decode_all
from distrib.images.views import views_of
from distrib.learning.muon import orthogonal
from distrib.lifecycle.allocator import keep_pages
from distrib.settings import Data, Model
from distrib.zoo import registry
from distrib.zoo.speednet import SCALE

BATCH, PAD, SMOOTHING = 2000, 2, 0.2
MUON_LR, MUON_MOMENTUM, BIAS_LR, HEAD_LR, MOMENTUM, DECAY = 0.24, 0.6, 0.053, 0.67, 0.85, 2e-6 * BATCH
WHITENING_EPOCHS = 3  # in which the first layer's bias is trained
CHANNELS = 256  # the original divides the logits by these, we multiply them by SCALE


def normalise(pixels: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Images (n, 32, 32, 3) uint8 to (n, 3, 32, 32) bf16."""
    rows = pixels.view(len(pixels), 32, 96).float().sub_(mean.repeat(32)).mul_(scale.repeat(32))
    return rows.bfloat16().view(-1, 32, 32, 3).permute(0, 3, 1, 2)


def augmented(pixels: Tensor, mirrored: Tensor) -> Tensor:
    """Each image shifted, and mirrored where told."""
    count, side = len(pixels), 32 + 2 * PAD
    mirror = torch.arange(-PAD, 32 + PAD).abs()
    mirror = torch.where(mirror > 31, 62 - mirror, mirror)
    padded = pixels[:, mirror][:, :, mirror].contiguous()
    down, right = torch.randint(2 * PAD + 1, (2, count))
    windows = padded.as_strided(((count * side - 32) * side + 2 * PAD + 1, 32, 96), (3, side * 3, 1))
    shifted = windows.index_select(0, (torch.arange(count) * side + down) * side + right).view(count, 32, 32, 3)
    return torch.cat([shifted, shifted.flip(2)]).index_select(0, torch.arange(count) + count * mirrored)


def accuracy(net: nn.Module, pixels: Tensor, labels: Tensor, statistics: tuple[Tensor, Tensor], kind: str) -> float:
    """Share of test images that are told right."""
    hits = 0
    net.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for images, told in zip(pixels.split(BATCH), labels.split(BATCH), strict=True):
            said = sum(share * net(normalise(view, *statistics)).float() for view, share in views_of(images, kind))
            hits += int((said.argmax(1) == told).sum())
    net.train()
    return hits / len(labels)


def step(filters: list[nn.Parameter], buffers: list[Tensor], lr: float) -> None:
    """Muon, with the filters' norm kept."""
    for weight, buffer in zip(filters, buffers, strict=True):
        buffer.mul_(MUON_MOMENTUM).add_(weight.grad)
        ahead = weight.grad.add(buffer, alpha=MUON_MOMENTUM)
        weight.data.mul_(len(weight) ** 0.5 / weight.norm())
        weight.data.add_(orthogonal(ahead.flatten(1), torch.bfloat16).view_as(weight), alpha=-lr)
        weight.grad = None


def started(pixels: Tensor, statistics: tuple[Tensor, Tensor]) -> nn.Module:
    """The network with its first weights."""
    net = registry.build(Model(model="speednet", first_weights="both"), classes=10, image_size=32)
    net.fc.weight.data.mul_(1 / (CHANNELS * SCALE * net.fc.weight.std()))  # the same logits as the original's
    net.stem.fit(normalise(pixels[:5000], *statistics).float())
    return net.to(memory_format=torch.channels_last)


def train(net: nn.Module, pixels: Tensor, labels: Tensor, statistics: tuple[Tensor, Tensor], epochs: int) -> None:
    """Train the network for so many epochs."""
    filters = [p for p in net.parameters() if p.ndim == 4 and p.requires_grad]
    biases = [p for n, p in net.named_parameters() if p.ndim == 1 and p.requires_grad and not n.startswith("stem")]
    buffers = [torch.zeros_like(weight) for weight in filters]
    rates = [BIAS_LR, BIAS_LR, HEAD_LR / (CHANNELS * SCALE) ** 2]
    groups = [
        {"params": params, "lr": lr, "weight_decay": DECAY / lr}
        for params, lr in zip(([net.stem.bias], biases, [net.fc.weight]), rates, strict=True)
    ]
    sgd = torch.optim.SGD(groups, lr=BIAS_LR, momentum=MOMENTUM, nesterov=True, fused=True)
    per_epoch = len(labels) // BATCH
    total, whitening, update = epochs * per_epoch, WHITENING_EPOCHS * per_epoch, 0
    first = torch.randint(2, (len(labels),))
    for epoch in range(epochs):
        for picked in torch.randperm(len(labels))[: per_epoch * BATCH].split(BATCH):
            images = augmented(pixels.index_select(0, picked), (first[picked] + epoch) % 2)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(normalise(images, *statistics))
                loss = F.cross_entropy(logits, labels[picked], label_smoothing=SMOOTHING, reduction="sum")
            loss.backward()
            left = [max(1 - update / whitening, 0), *[1 - update / total] * 2]
            for group, lr, share in zip(sgd.param_groups, rates, left, strict=True):
                group["lr"] = lr * share
            step(filters, buffers, MUON_LR * (1 - update / total))
            sgd.step()
            sgd.zero_grad(set_to_none=True)
            update += 1


def main() -> None:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    keep_pages()
    data = sources.load(f"hf:{asked.folder}", Data(data=f"hf:{asked.folder}"))
    pixels, test = decode_all(data.train, 32)[0], decode_all(data.test, 32)[0]
    labels, told = (torch.from_numpy(split.labels.astype("int64")) for split in (data.train, data.test))
    flat = pixels.view(-1, 3).float()
    statistics = flat.mean(0), 1 / flat.std(0)
    torch.manual_seed(asked.seed)
    net = started(pixels, statistics)
    began = time.perf_counter()
    train(net, pixels, labels, statistics, asked.epochs)
    seconds = time.perf_counter() - began
    found = {kind: accuracy(net, test, told, statistics, kind) for kind in ("one", "shift")}
    print(json.dumps({"seconds": seconds, **found}), flush=True)


if __name__ == "__main__":
    main()
