"""What a report found out about the test images, as data beside its page: ``report.json``."""

import json
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

MOST_CLASSES = 100  # of a confusion matrix that is drawn; of more, nobody could read it


@dataclass(frozen=True)
class ClassScores:
    """How well a class is told from the others. All but the support are of 1; 0 where there is nothing to divide by."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    """Its test images."""


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
    scores: list[ClassScores]
    """Of each class, in their order."""
    confusion: list[list[int]]
    """(cells, 3): the numbers of a class, of one that it was taken for, and of the images of which that is true.

    Where there is no image there is no cell: ten thousand classes would have a hundred million of them.
    """
    calibration_error: float
    """Expected calibration error, of 1."""
    errors: list[Shown]
    """The most confident errors, surest first."""
    predictions: list[Shown]
    """Some images."""

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [score.name for score in self.scores]

    @property
    def recalls(self) -> list[float]:
        """Of each class, the share of its images that were recognised; 0 where there is none."""
        return [score.recall for score in self.scores]


def dump(findings: Findings) -> str:
    """What :func:`load` reads, as text."""
    return json.dumps(asdict(findings))


def load(path: Path) -> Findings | None:
    """Those that were saved at ``path``; None if there are none, or the file holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shown = {name: [Shown(**one) for one in found[name]] for name in ("errors", "predictions")}
        scores = [ClassScores(**one) for one in found["scores"]]
        findings = Findings(**found | shown | {"scores": scores})
        whole = _is_whole(findings)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return findings if whole else None


def _is_whole(findings: Findings) -> bool:
    """Whether scores are numbers, and cells are of classes that there are."""
    places, cells = range(len(findings.scores)), findings.confusion
    counted = all(type(number) is int for cell in cells for number in cell)
    scored = all(isinstance(number, int | float) for score in findings.scores for number in astuple(score)[1:])
    return counted and scored and all(true in places and taken in places for true, taken, _ in cells)
