"""The model card of an exported run: Markdown below the Hub's YAML.

All text of others passes through :func:`escaped` or :func:`fenced`: names are shown as they are, whatever they contain.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from distrib.images.cropping import crop_share
from distrib.images.feed import Preprocessing
from distrib.insight.export.subject import Subject
from distrib.insight.history import History
from distrib.insight.report.writing import run_facts
from distrib.lifecycle.journal import Record
from distrib.settings import Data
from distrib.zoo import anatomy

EPOCHS = 20  # rows of the table of epochs, about
PUBLISHED = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""What the Hub calls data sets that are named here."""
MARKS = {**{ord(mark): f"\\{mark}" for mark in "`*_[]#|~:@"}, **{ord(mark): f"&#{ord(mark)};" for mark in "\\$<>&"}}
"""What Markdown, HTML or the Hub's formulas would take for more than text, and what stands for it."""


def card(subject: Subject, history: History) -> str:
    """The text of README.md."""
    return f"---\n{front(subject, history).to_yaml()}\n---\n\n{body(subject, history)}\n"


def evaluation(subject: Subject, history: History) -> Record:
    """The record of the epoch that ended with the exported weights; an empty one if they were not evaluated."""
    update = subject.run.checkpoint.state["update"]
    return next((record for record in history.epochs if record["update"] == update), {})


def scores(subject: Subject, record: Record) -> dict[str, float]:
    """What an evaluation says of the exported weights, by name."""
    prefix = "ema_" if subject.ema else ""
    names = {"top-1 accuracy": "test_top1", "top-5 accuracy": "test_top5", "loss": "test_loss"}
    found = {name: record.get(prefix + key) for name, key in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def front(subject: Subject, history: History) -> ModelCardData:
    """What the Hub reads."""
    data, model = subject.run.settings.data, subject.run.settings.model.model
    published = on_the_hub(data)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=published or data.data.partition(":")[0],
            dataset_name=data.data,
            dataset_split="test",
            metric_type="loss" if name == "loss" else "accuracy",
            metric_name=name,
            metric_value=value,
        )
        for name, value in scores(subject, evaluation(subject, history)).items()
    ]
    return ModelCardData(
        library_name="distrib",
        pipeline_tag="image-classification",
        tags=["image-classification", "pytorch", model.rpartition("/")[2]],
        datasets=[published] if published else None,
        metrics=["accuracy"],
        model_name=subject.name,
        eval_results=results or None,
    )


def on_the_hub(data: Data) -> str | None:
    """The name of the data set on the Hub; None if it is not from there."""
    kind, _, place = data.data.partition(":")
    if kind == "hf" and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", place) and not Path(place).exists():
        return place
    return PUBLISHED.get(kind)


def body(subject: Subject, history: History) -> str:
    """What people read."""
    run = subject.run
    facts = dict(run_facts(run.folder, run.settings, history))
    command = facts.pop("command")
    parts = [
        f"# {escaped(subject.name)}",
        summary(subject),
        result(subject, evaluation(subject, history)),
        "## Use",
        "`hf download USER/NAME --local-dir FOLDER` gets a copy of this folder from the Hub. With distrib:",
        fenced("distrib predict FOLDER photo.jpg\ndistrib evaluate FOLDER"),
        input_text(run.preprocessing),
        "## Training",
        table(("what", "how"), facts.items()),
        "The command was",
        fenced(command),
        "and `settings.yaml` holds every setting: `distrib train --config settings.yaml` trains it again.",
        *curves(history),
        "## Classes",
        ", ".join(f"{number}: {escaped(name)}" for number, name in enumerate(run.preprocessing.classes)),
    ]
    return "\n\n".join(parts)


def summary(subject: Subject) -> str:
    """What it is, in two sentences."""
    settings, state = subject.run.settings, subject.run.checkpoint.state
    model, data = escaped(settings.model.model), escaped(settings.data.data)
    count, classes = anatomy.parameters(subject.network), len(subject.run.preprocessing.classes)
    weights = "the average of the weights" if subject.ema else "the weights"
    return (
        f"{model} ({count:,} parameters), trained on {data} to tell {classes:,} classes of images apart. These are "
        f"{weights} after {state['update']:,} updates, {state['epoch']:,} epochs."
    )


def result(subject: Subject, record: Record) -> str:
    """The scores, as a table."""
    found = scores(subject, record)
    if not found:
        return "They were not scored on test images."
    rows = [(name, f"{value:.4f}" if name == "loss" else f"{value:.2%}") for name, value in found.items()]
    return table(("score", f"on {record['test_count']:,} test images"), rows)


def input_text(prepared: Preprocessing) -> str:
    """What the network takes for an image, for those who load the weights into something else."""
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (prepared.mean, prepared.std))
    share, size = f"{100 * crop_share(prepared.size):.3g} %", prepared.size
    return (
        f"The network takes the central square of an image, {share} of its short side, scaled to {size} x {size} RGB "
        f"pixels from 0 to 1, less the mean ({mean}) and divided by the deviation ({std}). `config.json` holds this "
        "and the names of the classes, `model.safetensors` the weights."
    )


def curves(history: History) -> list[str]:
    """The picture of all epochs, and a table of some: the first, the last, and as many in between as are read."""
    if not history.epochs:
        return []
    names = ("epoch", "train_loss", "test_loss", "train_top1", "test_top1", "lr")
    step = -(-len(history.epochs) // EPOCHS)
    shown = [*history.epochs[:-1:step], history.epochs[-1]]
    rows = [[number(record.get(name)) for name in names] for record in shown]
    heads = [name.replace("_", " ").replace("top1", "accuracy") for name in names]
    return ["## Curves", "![Loss and accuracy of each epoch](curves.png)", table(heads, rows)]


def number(value: float | None) -> str:
    """A number for a table."""
    if value is None or math.isnan(value):
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    lines = [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines))


def fenced(text: str) -> str:
    """Lines of a shell, shown as they are: the fence is longer than any that they hold."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def escaped(text: str) -> str:
    """Plain text, in one line, as Markdown."""
    return " ".join(text.split()).translate(MARKS)
