"""Loops in plain PyTorch: one tuned by hand, and those of four write-ups as they were published.

    python benchmarks/loops/plain.py LOOP [--network NAME] [--batch N] [--precision P] [--device D]

``tuned`` holds everything that is known to be fast and nothing else: no journal, no checkpoint, no check of
any number. The others are the training loops of tutorials on CIFAR-10, with their loaders, optimizers and schedules:
``tutorial50`` (ResNet-50, AutoAugment), ``tutorial18`` (ResNet-18, MultiStep), ``tutorial9`` (ResNet-9, one cycle, an
image folder), ``notebook`` (ResNet-18 against a small network, cosine).
"""

from argparse import Namespace
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from stopwatch import SIDE, Stopwatch, arguments, images, network
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from distrib.lifecycle.allocator import keep_pages

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PAD = 4


def tuned_batches(batch: int, dtype: torch.dtype, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Resident images, shifted, mirrored and normalised a batch at a time."""
    pixels, labels = (torch.from_numpy(array).to(device) for array in images())
    torch.set_default_device(device)
    side = SIDE + 2 * PAD
    mean = (torch.tensor(MEAN) * 255).repeat(SIDE)
    scale = (1 / (torch.tensor(STD) * 255)).repeat(SIDE)
    numbers = torch.arange(batch)
    while True:
        for picked in torch.randperm(len(labels))[: len(labels) // batch * batch].split(batch):
            padded = F.pad(pixels.index_select(0, picked), (0, 0, PAD, PAD, PAD, PAD))
            corner = (numbers * side + torch.randint(2 * PAD + 1, (batch,))) * side + torch.randint(
                2 * PAD + 1, (batch,)
            )
            corners = (batch * side - SIDE) * side + 2 * PAD + 1
            shifted = padded.as_strided((corners, SIDE, SIDE * 3), (3, side * 3, 1)).index_select(0, corner)
            shifted = shifted.view(batch, SIDE, SIDE, 3)
            ways = torch.cat([shifted, shifted.flip(2)])
            varied = ways.index_select(0, numbers + batch * torch.randint(2, (batch,)))
            rows = varied.view(batch, SIDE, SIDE * 3).float().sub_(mean).mul_(scale).to(dtype)
            yield rows.view(batch, SIDE, SIDE, 3).permute(0, 3, 1, 2), labels[picked]


def tuned(asked: Namespace, watch: Stopwatch) -> None:
    """The fastest that we can write by hand: PyTorch's own kernels and nothing around them."""
    keep_pages()
    net = network(asked.network).to(asked.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    dtype = torch.bfloat16 if asked.precision == "bf16" else torch.float32
    for pixels, labels in tuned_batches(asked.batch, dtype, asked.device):
        with torch.autocast(asked.device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = F.cross_entropy(net(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.lap()


class Arrays(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10: an array from which each image is made one by one."""

    def __init__(self, transform: transforms.Compose) -> None:
        self.pixels, self.labels = images()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image."""
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


def transform(*first: object) -> transforms.Compose:
    """Of the write-ups: what comes ``first``, then a tensor, normalised."""
    return transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def tutorial50(asked: Namespace, watch: Stopwatch) -> None:
    """PlainNet and ResNet: SGD with momentum, AutoAugment, no workers."""
    crop, flip = transforms.RandomCrop(SIDE, padding=PAD), transforms.RandomHorizontalFlip()
    varied = transform(crop, flip, transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10))
    net, criterion = network(asked.network).to(asked.device).train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    total, correct, seen = 0.0, 0, 0
    for inputs, labels in DataLoader(Arrays(varied), batch_size=asked.batch, shuffle=True):
        inputs, labels = inputs.to(asked.device), labels.to(asked.device)
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        correct += (outputs.argmax(1) == labels).sum().item()
        seen += len(labels)
        watch.lap()


def tutorial18(asked: Namespace, watch: Stopwatch) -> None:
    """ResNet tutorial: Nesterov, MultiStep, four workers that stay, pinned memory where there is a GPU."""
    varied = transform(transforms.RandomCrop(SIDE, padding=PAD), transforms.RandomHorizontalFlip())
    loader = DataLoader(Arrays(varied), batch_size=asked.batch, shuffle=True, num_workers=4, persistent_workers=True)
    net, criterion = network(asked.network).to(asked.device).train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    scheduler = MultiStepLR(optimizer, milestones=[60, 80], gamma=0.1)
    for _ in range(100):
        total, correct, seen = 0.0, 0, 0
        for inputs, labels in loader:
            inputs, labels = inputs.to(asked.device), labels.to(asked.device)
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
            predicted = outputs.max(1)[1]
            seen += labels.size(0)
            correct += predicted.eq(labels).sum().item()
            watch.lap()
        scheduler.step()


def tutorial9(asked: Namespace, watch: Stopwatch) -> None:
    """Residual network on CIFAR-10: an image folder, Adam, one cycle, gradients clipped by value."""
    crop = transforms.RandomCrop(SIDE, padding=PAD, padding_mode="reflect")
    data = ImageFolder(asked.folder, transform(crop, transforms.RandomHorizontalFlip()))
    loader = DataLoader(data, asked.batch, shuffle=True, num_workers=3)
    net = network(asked.network).to(asked.device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)
    scheduler = OneCycleLR(optimizer, max_lr=0.01, epochs=8, steps_per_epoch=len(loader))
    for _ in range(8):
        losses, rates = [], []
        for inputs, labels in loader:
            inputs, labels = inputs.to(asked.device), labels.to(asked.device)
            loss = F.cross_entropy(net(inputs), labels)
            losses.append(loss)
            loss.backward()
            nn.utils.clip_grad_value_(net.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
            watch.lap()


def notebook(asked: Namespace, watch: Stopwatch) -> None:
    """ResNet from scratch: SGD with momentum, cosine, two workers."""
    varied = transform(transforms.RandomCrop(SIDE, padding=PAD), transforms.RandomHorizontalFlip())
    loader = DataLoader(Arrays(varied), batch_size=asked.batch, shuffle=True, num_workers=2)
    net, criterion = network(asked.network).to(asked.device).train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = CosineAnnealingLR(optimizer, T_max=50)
    for _ in range(50):
        running, correct, total = 0.0, 0, 0
        for inputs, targets in loader:
            inputs, targets = inputs.to(asked.device), targets.to(asked.device)
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            running += loss.item()
            _, predicted = outputs.max(1)
            total += targets.size(0)
            correct += predicted.eq(targets).sum().item()
            watch.lap()
        scheduler.step()


LOOPS = {loop.__name__: loop for loop in (tuned, tutorial50, tutorial18, tutorial9, notebook)}

if __name__ == "__main__":
    given = arguments(*LOOPS)
    LOOPS[given.loop](given, Stopwatch(given.batch, given.every, given.journal))
