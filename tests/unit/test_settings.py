import ast
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distrib import settings
from distrib.settings import (
    Augmentation,
    Compute,
    Data,
    Lifecycle,
    Model,
    Optimization,
    Schedule,
    Settings,
    SettingsError,
    Tracking,
)

GROUPS = (Model, Data, Augmentation, Optimization, Schedule, Compute, Lifecycle, Tracking)

REFUSED: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("--width", Model, {"width": 0}),
    ("--width", Model, {"model": "torchvision/vgg11", "width": 8}),
    ("--stem", Model, {"model": "torchvision/vgg11", "stem": "cifar"}),
    ("--pretrained", Model, {"pretrained": True}),
    ("--data", Data, {"data": "cifar11"}),
    ("--data", Data, {"data": "folder:"}),
    ("--data", Data, {"data": "hf:"}),
    ("--image-size", Data, {"image_size": 7}),
    ("--train-images", Data, {"train_images": 0}),
    ("--test-images", Data, {"test_images": 0}),
    ("--workers", Data, {"workers": -1}),
    ("--crop-padding", Augmentation, {"crop_padding": 0}),
    ("--crop-padding", Augmentation, {"crop": "resized", "crop_padding": 4}),
    ("--padding-mode", Augmentation, {"crop": "none", "padding_mode": "reflect"}),
    ("--cutout", Augmentation, {"cutout": -1}),
    ("--epochs", Optimization, {"epochs": 0}),
    ("--batch-size", Optimization, {"batch_size": 0}),
    ("--micro-batch", Optimization, {"micro_batch": 0}),
    ("--threads", Compute, {"threads": 0}),
    ("--compile", Compute, {"compile": "reduce-overhead", "exact": True}),
    ("--virtual-ranks", Compute, {"exact": True, "virtual_ranks": 12}),
    ("--virtual-ranks", Compute, {"exact": True, "virtual_ranks": 0}),
    ("--virtual-ranks", Compute, {"virtual_ranks": 16}),
    ("--accept-inexact", Compute, {"accept_inexact": True}),
    ("--lr", Optimization, {"lr": 0.0}),
    ("--lr", Optimization, {"lr": float("nan")}),
    ("--momentum", Optimization, {"momentum": 1.0}),
    ("--momentum", Optimization, {"momentum": -0.1}),
    ("--nesterov", Optimization, {"nesterov": True, "optimizer": "adamw"}),
    ("--momentum", Optimization, {"nesterov": True, "momentum": 0.0}),
    ("--momentum", Optimization, {"optimizer": "muon", "momentum": 0.0}),
    ("--weight-decay", Optimization, {"weight_decay": -1e-9}),
    ("--clip-norm", Optimization, {"clip_norm": 0.0}),
    ("--clip-value", Optimization, {"clip_value": 0.0}),
    ("--label-smoothing", Optimization, {"label_smoothing": 1.0}),
    ("--ema-decay", Optimization, {"ema_decay": 1.0}),
    ("--ema-decay", Optimization, {"ema_decay": 0.0}),
    ("--warmup-epochs", Schedule, {"warmup_epochs": -1.0}),
    ("--pct-start", Schedule, {"pct_start": 0.0}),
    ("--pct-start", Schedule, {"pct_start": 1.0}),
    ("--min-lr", Schedule, {"min_lr": -1e-9}),
    ("--restart-epochs", Schedule, {"restart_epochs": 0}),
    ("--restart-multiplier", Schedule, {"restart_multiplier": 0}),
    ("--milestones", Schedule, {"schedule": "multistep"}),
    ("--milestones", Schedule, {"schedule": "multistep", "milestones": (3, 3)}),
    ("--milestones", Schedule, {"schedule": "multistep", "milestones": (0, 3)}),
    ("--milestones", Schedule, {"schedule": "cosine", "milestones": (3,)}),
    ("--gamma", Schedule, {"gamma": 1.0}),
    ("--plateau-patience", Schedule, {"plateau_patience": -1}),
    ("--early-stop-patience", Schedule, {"early_stop_patience": 0}),
    ("--early-stop-delta", Schedule, {"early_stop_delta": -0.1}),
    ("--seed", Compute, {"seed": -1}),
    ("--seed", Compute, {"seed": 2**32}),
    ("--precision", Compute, {"device": "cpu", "precision": "fp16"}),
    ("--name", Lifecycle, {"name": "a/b"}),
    ("--name", Lifecycle, {"name": ".hidden"}),
    ("--name", Lifecycle, {"name": ".."}),
    ("--name", Lifecycle, {"name": ""}),
    ("--save-every", Lifecycle, {"save_every": 0}),
    ("--log-every", Lifecycle, {"log_every": 0}),
]


@pytest.mark.parametrize(("flag", "group", "values"), REFUSED)
def test_a_refusal_names_the_flag(flag: str, group: Callable[..., Any], values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refusal:
        group(**values)
    assert flag in str(refusal.value).replace(",", " ").split()


@pytest.mark.parametrize(
    ("flags", "groups"),
    [
        (("--warmup-epochs", "--epochs"), {"schedule": Schedule(warmup_epochs=30)}),
        (("--min-lr", "--lr"), {"schedule": Schedule(min_lr=0.2)}),
        (("--milestones", "--epochs"), {"schedule": Schedule(schedule="multistep", milestones=(10, 30))}),
        (
            ("--micro-batch", "--compile reduce-overhead"),
            {"optimization": Optimization(micro_batch=8), "compute": Compute(compile="reduce-overhead")},
        ),
        (
            ("--init", "--pretrained"),
            {
                "model": Model(model="torchvision/resnet18", pretrained=True),
                "lifecycle": Lifecycle(init=Path("runs/x")),
            },
        ),
    ],
)
def test_a_contradiction_between_groups_names_both_flags(flags: tuple[str, str], groups: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings(**groups)
    assert all(flag in str(refusal.value) for flag in flags)


def test_values_at_the_edge_are_taken() -> None:
    edge = Settings(
        data=Data(image_size=8, workers=0, train_images=1, test_images=1),
        optimization=Optimization(epochs=3, momentum=0.0, weight_decay=0.0, lr=0.1),
        schedule=Schedule(schedule="multistep", milestones=(1, 2), warmup_epochs=2.9, min_lr=0.1),
        compute=Compute(seed=2**32 - 1, device="cpu", precision="bf16"),
        augmentation=Augmentation(crop="auto", crop_padding=1, padding_mode="reflect"),
    )
    assert (edge.flat()["seed"], edge.flat()["milestones"], edge.flat()["workers"]) == (2**32 - 1, [1, 2], 0)


def test_an_unknown_data_set_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="did you mean 'cifar100'"):
        Data(data="cifar-100")


def test_there_are_fewer_than_70_settings() -> None:
    assert 40 < len(Settings().flat()) < 70


def test_names_are_unique_over_the_groups() -> None:
    names = [field.name for group in GROUPS for field in dataclasses.fields(group)]
    assert len(names) == len(set(names))
    assert set(names) == set(Settings().flat())


def test_every_field_is_followed_by_a_line_of_help() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in Path(settings.__file__).parent.glob("*.py")]
    names = {group.__name__ for group in GROUPS}
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    assert len(classes) == len(GROUPS)
    for group in classes:
        for field, following in zip(group.body, group.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                helped = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert helped, f"{group.name}: line {field.lineno} has no help"
        assert not isinstance(group.body[-1], ast.AnnAssign), f"{group.name}: the last field has no help"


def test_flat_gives_plain_types() -> None:
    flat = Settings(
        schedule=Schedule(schedule="multistep", milestones=(3, 5)), lifecycle=Lifecycle(init=Path("a/b"))
    ).flat()
    assert json.loads(json.dumps(flat)) == flat
    assert flat["milestones"] == [3, 5]
    assert flat["init"] == "a/b"
    assert flat["out"] == "runs"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().optimization.lr = 1.0  # type: ignore[misc]
