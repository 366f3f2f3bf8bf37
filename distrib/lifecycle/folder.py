"""The run folder: what a run was, what happened in it, and where it goes on."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, the same on every rank."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def settings(self) -> Path:
        """The resolved recipe, which runs the run again."""
        return self.path / "settings.yaml"

    @property
    def journal(self) -> Path:
        """What happened."""
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """The page that shows all there is to see."""
        return self.path / "report.html"

    @property
    def findings(self) -> Path:
        """What the report found out about the test images, as data."""
        return self.report.with_suffix(".json")

    @property
    def checkpoints(self) -> Path:
        """Where the run goes on."""
        return self.path / "checkpoints"

    @property
    def heartbeats(self) -> Path:
        """Where each rank is."""
        return self.path / "heartbeats"
