"""The recipes of configs/: each says what it is, and is one that can run."""

import dataclasses
import math
import shlex
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from distrib import command
from distrib.images import sources
from distrib.images.feed import Feed
from distrib.learning.optimizers import make_optimizer, set_rates
from distrib.learning.rates import Rates
from distrib.settings import Settings
from distrib.zoo import registry
from tests.launching import ROOT
from tests.peers import Solo

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def header(path: Path) -> dict[str, str]:
    """The ``word: text`` lines of the comment that a recipe begins with."""
    lines = path.read_text().splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return {word: text.strip() for word, _, text in (line[2:].partition(":") for line in comment)}


def tiny(settings: Settings) -> Settings:
    """The same run with a narrow network on a handful of small images."""
    few = {"image_size": 16, "train_images": 16, "test_images": 4, "workers": 0}
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, width=8),
        data=dataclasses.replace(settings.data, data="synthetic", **few),
        optimization=dataclasses.replace(settings.optimization, batch_size=8),
    )


@each_recipe
def test_the_header_says_what_a_reader_asks(path, monkeypatch):
    said = header(path)
    assert said["expected"]
    assert said["cost"]
    assert said["hardware"]
    script, arguments = said["command"].split(" --config ")
    assert (ROOT / script.removeprefix("python ")).is_file()
    assert arguments.split()[0] == f"configs/{path.name}"
    monkeypatch.chdir(ROOT)
    command.parse(shlex.split(f"--config {arguments}"))


@each_recipe
def test_a_recipe_leaves_the_run_its_name(path):
    assert command.load(path).lifecycle.name is None


@each_recipe
def test_everything_in_a_recipe_can_be_built_and_learns(path):
    settings = command.load(path)
    registry.blueprint(settings.model, classes=10, image_size=settings.data.image_size or 32)
    settings = tiny(settings)
    feed = Feed(sources.load("synthetic", settings.data), settings, Solo(), torch.device("cpu"))
    network = registry.build(settings.model, classes=10, image_size=feed.preprocessing.size)
    optimizer = make_optimizer(network, settings.optimization)
    epochs, per_epoch = settings.optimization.epochs, feed.plan.updates_per_epoch
    rates = Rates(settings.optimization, settings.schedule, per_epoch=per_epoch, total=epochs * per_epoch)

    lrs = [rates.lr(step) for step in range(epochs * per_epoch)]
    assert all(math.isfinite(lr) and 0 <= lr <= settings.optimization.lr * (1 + 1e-9) for lr in lrs)
    assert all(0 <= rates.momentum(step) < 1 for step in range(epochs * per_epoch))

    batch = next(feed.train(epoch=0))
    set_rates(optimizer, lrs[0], rates.momentum(0))
    logits = network(feed.preprocessing.normalise(batch.pixels, channels_last=True))
    F.cross_entropy(logits, batch.labels, label_smoothing=settings.optimization.label_smoothing).backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    before = network.fc.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(network.fc.weight, before)


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        ("plain18", "resnet18", {"model"}),
        ("plain34", "resnet34", {"model"}),
        ("plain18", "plain34", {"model"}),
        ("resnet50_autoaugment", "resnet50_no_augmentation", {"crop", "flip", "policy"}),
        ("resnet18_cosine", "resnet18_cosine_wd1e4", {"weight_decay"}),
        ("resnet18_cosine", "simplecnn_cosine", {"model", "epochs"}),
    ],
)
def test_recipes_made_to_be_compared_differ_in_nothing_else(one, other, differing):
    first, second = (command.load(ROOT / "configs" / f"{name}.yaml").flat() for name in (one, other))
    assert {key for key in first if first[key] != second[key]} == differing
