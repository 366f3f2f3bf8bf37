"""What Weights & Biases shows of a report: a confusion matrix, the scores of each class, test images."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from distrib.insight.findings import MOST_CLASSES, Findings, Shown


def tables(findings: Findings, image: Callable[[int], Image.Image]) -> dict[str, Any]:
    """What to log; ``image`` gives a test image by its index."""
    import wandb  # noqa: PLC0415 - a second

    names, confusion = findings.classes, findings.confusion
    cells = [[names[true], names[taken], count] for true, taken, count in confusion]
    scores = [[one.name, one.precision, one.recall, one.support] for one in findings.scores]

    def pictures(some: list[Shown]) -> list[Any]:
        return [wandb.Image(image(one.index), caption=caption(one, names)) for one in some]

    logged = {
        "test/confused": wandb.Table(columns=["true", "predicted", "images"], data=cells),
        "test/classes": wandb.Table(columns=["class", "precision", "recall", "images"], data=scores),
        "test/calibration_error": findings.calibration_error,
        "test/errors": pictures(findings.errors),
        "test/predictions": pictures(findings.predictions),
    }
    if len(names) <= MOST_CLASSES:
        pairs = [(true, taken) for true, taken, count in confusion for _ in range(count)]
        true, taken = map(list, zip(*pairs, strict=True))
        logged["test/confusion"] = wandb.plot.confusion_matrix(y_true=true, preds=taken, class_names=names)
    return logged


def caption(one: Shown, names: list[str]) -> str:
    """What is said of an image."""
    right = "" if one.label == one.predicted else f", is {names[one.label]}"
    return f"{names[one.predicted]} {one.confidence:.0%}{right}"
