"""What a report found out about the test images, as data beside its page: ``report.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from distrib.lifecycle.files import write_whole


@dataclass(frozen=True)
class Shown:
    """A test image that the report shows."""

    index: int
    """Its place in the test split."""
    label: int
    """Its class."""
    predicted: int
    """The class that it was taken for."""
    confidence: float
    """How sure the network was, of 1."""


@dataclass(frozen=True)
class Findings:
    """How the network of a checkpoint sees the test images."""

    update: int
    """Of the checkpoint."""
    classes: list[str]
    """Their names."""
    confusion: list[list[int]]
    """(classes, classes): how many images of a class (row) were taken for one (column)."""
    calibration_error: float
    """Expected calibration error, of 1."""
    errors: list[Shown]
    """The most confident errors, surest first."""
    predictions: list[Shown]
    """Some images."""

    @property
    def recalls(self) -> list[float]:
        """Of each class, the share of its images that were recognised; 0 where there is none."""
        return [row[place] / max(sum(row), 1) for place, row in enumerate(self.confusion)]


def save(findings: Findings, path: Path) -> None:
    """Write them as JSON."""
    write_whole(path, json.dumps(asdict(findings)))


def load(path: Path) -> Findings | None:
    """Those that were saved at ``path``; None if there are none, or the file holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shown = {name: [Shown(**one) for one in found[name]] for name in ("errors", "predictions")}
        findings = Findings(**found | shown)
        count = len(findings.classes)
        whole = [len(findings.confusion), *map(len, findings.confusion)] == [count] * (count + 1)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return findings if whole else None
