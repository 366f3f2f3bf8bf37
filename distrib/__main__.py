"""The command ``distrib VERB``: see :data:`USAGE`."""

import importlib
import sys
from pathlib import Path
from typing import NoReturn

if not __package__:  # run as a script, as launchers do: see train.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distrib import __version__
from distrib.lifecycle.leaving import leave
from distrib.settings import nearest

USAGE = """usage: distrib VERB [ARGUMENTS]

  train        train an image classifier (the same as python distrib/train.py)
  sweep        train every run of a grid: as a Slurm job array, or one after the other
  doctor       look at this machine, and at what the flags of train ask of it, without training
  evaluate     score a run on its test images
  predict      name the classes of image files
  export       write a run's network for other programs, or as a folder for the Hugging Face Hub
  report       write all there is to see of a run into one HTML file
  compare      tell runs apart: tables, intervals of confidence, curves in one HTML file
  checkpoints  list a run's checkpoints and whether they are whole
  verify       prove on these machines what is promised: restart, order, exact
  diff         say where two runs part: the first update, the first tensor
  pack         store a data set as a few large files that are read many times as fast
  models       list the networks, or show one of them

`distrib VERB --help` tells more of each."""

VERBS = (
    "train",
    "sweep",
    "doctor",
    "evaluate",
    "predict",
    "export",
    "report",
    "compare",
    "checkpoints",
    "verify",
    "diff",
    "pack",
    "models",
)


def main(arguments: list[str] | None = None) -> int:
    """Run the verb that the arguments begin with; return its exit code."""
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if verb == "--version":
        print(f"distrib {__version__}")
        return 0
    if verb not in VERBS:
        print(f"error: '{verb}' is no verb of distrib{nearest(verb, VERBS)}\n\n{USAGE}", file=sys.stderr)
        return 2
    return _run(verb, rest)


def _run(verb: str, arguments: list[str]) -> int:
    # Imported one by one: each verb's imports are seconds that the others should not pay.
    module = {
        "train": "distrib.train",
        "sweep": "distrib.insight.sweep",
        "doctor": "distrib.insight.doctor",
        "checkpoints": "distrib.insight.checkpoint_table",
        "verify": "distrib.insight.verification",
        "diff": "distrib.insight.difference",
        "evaluate": "distrib.insight.evaluation",
        "predict": "distrib.insight.prediction",
        "export": "distrib.insight.export.exporting",
        "report": "distrib.insight.report.writing",
        "compare": "distrib.insight.report.comparing",
        "pack": "distrib.images.packing",
        "models": "distrib.zoo.listing",
    }[verb]
    code: int = importlib.import_module(module).main(arguments)
    return code


def end_with_main() -> NoReturn:
    """Be the whole process: what `distrib` and `python -m distrib` call."""
    leave(main)


if __name__ == "__main__":
    end_with_main()
