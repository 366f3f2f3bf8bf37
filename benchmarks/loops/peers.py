"""Loops of other trainers, as their users write them.

    python benchmarks/loops/peers.py LOOP [--network NAME] [--batch N] [--precision P] [--device D]

``accelerate`` follows the computer-vision example of Accelerate's documentation, ``lightning`` a LightningModule with
the Trainer's defaults; both read images one by one through torchvision's transforms in two workers. ``timm`` builds
loader, optimizer and loss as timm's own training script does by default, from an image folder. With bf16 all are given
what makes them fast: mixed precision, channels_last, the fused optimizer, and timm no jitter of colours and no more
workers than cores.
"""

from argparse import Namespace

import torch
import torch.nn.functional as F
from plain import PAD, Arrays, transform
from stopwatch import SIDE, Stopwatch, arguments, network
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchvision import transforms


def loader(batch: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Shuffled batches of shifted and mirrored images."""
    varied = transform(transforms.RandomCrop(SIDE, padding=PAD), transforms.RandomHorizontalFlip())
    return DataLoader(Arrays(varied), batch_size=batch, shuffle=True, num_workers=2, persistent_workers=True)


def accelerate(asked: Namespace, watch: Stopwatch) -> None:
    """Accelerate: everything prepared, the scheduler included."""
    from accelerate import Accelerator

    best = asked.precision == "bf16"
    accelerator = Accelerator(cpu=asked.device == "cpu", mixed_precision="bf16" if best else "no")
    net, batches = network(asked.network), loader(asked.batch)
    if best:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=best)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, epochs=50, steps_per_epoch=len(batches))
    net, optimizer, batches, scheduler = accelerator.prepare(net, optimizer, batches, scheduler)
    for _ in range(50):
        net.train()
        total = torch.zeros((), device=asked.device)
        for inputs, labels in batches:
            outputs = net(inputs.to(memory_format=torch.channels_last) if best else inputs)
            loss = F.cross_entropy(outputs, labels)
            total += loss.detach().float()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            watch.lap()


def lightning(asked: Namespace, watch: Stopwatch) -> None:
    """Lightning: a module and a Trainer."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    best = asked.precision == "bf16"

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(asked.network)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            inputs, labels = batch
            if best:
                inputs = inputs.to(memory_format=torch.channels_last)
            logits = self.net(inputs)
            loss = F.cross_entropy(logits, labels)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> dict:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=best)
            steps = self.trainer.estimated_stepping_batches
            scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=int(steps))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Laps(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            watch.lap()

    module = Classifier()
    if best:
        module = module.to(memory_format=torch.channels_last)
    trainer = Trainer(
        accelerator="gpu" if asked.device == "cuda" else "cpu",
        max_epochs=50,
        precision="bf16-mixed" if best else "32-true",
        callbacks=[Laps()],
        logger=False,
        enable_checkpointing=False,  # of all loops ours alone saves, as it always does
    )
    trainer.fit(module, loader(asked.batch))


def timm(asked: Namespace, watch: Stopwatch) -> None:
    """timm: its loader, which also resizes, its optimizer and its loss."""
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    best = asked.precision == "bf16"
    data = create_dataset("", root=asked.folder, split="train", is_training=True)
    batches = create_loader(
        data,
        input_size=(3, SIDE, SIDE),
        batch_size=asked.batch,
        is_training=True,
        hflip=0.5,
        color_jitter=None if best else 0.4,
        num_workers=2 if best else 4,
        device=torch.device(asked.device),
    )
    net = network(asked.network).to(asked.device).train()
    if best:
        net = net.to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(net, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5, fused=best)
    criterion, losses = torch.nn.CrossEntropyLoss(), AverageMeter()
    for _ in range(50):
        for images, labels in batches:
            inputs = images.contiguous(memory_format=torch.channels_last) if best else images
            with torch.autocast(asked.device, torch.bfloat16, enabled=best):
                loss = criterion(net(inputs), labels)
            losses.update(loss.item(), len(inputs))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.lap()


LOOPS = {loop.__name__: loop for loop in (accelerate, lightning, timm)}

if __name__ == "__main__":
    given = arguments(*LOOPS)
    LOOPS[given.loop](given, Stopwatch(given.batch, given.every, given.journal))
