"""Whether two runs came to the same, bit for bit."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import safetensors
from torch import Tensor

from distrib.insight.summary import aligned
from distrib.lifecycle import checkpoints, journal
from distrib.lifecycle.checkpoints import Checkpoint
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.journal import Record

COUNTERS = ("update", "epoch", "finished", "test_top1", "best_top1")
COMPARED = {"update": ("checksum", "loss", "grad_norm"), "epoch": ("train_loss", "test_loss", "test_top1")}
"""What computing the same gives again, by kind of record; times are not among it."""


@dataclass(frozen=True)
class Finding:
    """Something that both runs have, and whether it is the same."""

    what: str
    same: bool
    detail: str


def recorded(folder: RunFolder) -> list[Record]:
    """The journal of a run; empty if there is none yet."""
    return list(journal.read(folder.journal)) if folder.journal.exists() else []


def begins(records: list[Record]) -> list[Record]:
    """The events with which processes began or resumed the run."""
    return [record for record in records if record.get("event") in ("start", "resume")]


def numbers(records: list[Record]) -> list[int]:
    """The updates, as often as they are recorded."""
    return [record["update"] for record in records if record["kind"] == "update"]


def compare(first: Path, second: Path) -> list[Finding]:
    """Compare the runs in two run folders, ``first`` being what ``second`` should be."""
    one, other = RunFolder(first), RunFolder(second)
    return [
        *compare_checkpoints(checkpoints.every(one.checkpoints), checkpoints.every(other.checkpoints)),
        *compare_journals({one.name: recorded(one), other.name: recorded(other)}),
    ]


def compare_checkpoints(first: list[Checkpoint], second: list[Checkpoint]) -> list[Finding]:
    """Compare the newest checkpoints of two runs."""
    if not first or not second:
        return [Finding("checkpoint", same=False, detail="one of the runs has none")]
    one, other = first[-1], second[-1]
    saved = {file.stem for checkpoint in (one, other) for file in checkpoint.path.glob("*.safetensors")}
    groups = sorted(saved | {"model", "optimizer"})
    return [*(_compare_group(group, one, other) for group in groups), _compare_counters(one, other)]


def _compare_group(group: str, one: Checkpoint, other: Checkpoint) -> Finding:
    # The files themselves, not what the manifests say of them.
    files = [checkpoint.path / f"{group}.safetensors" for checkpoint in (one, other)]
    if not all(file.exists() for file in files):
        return Finding(group, same=False, detail="one of the checkpoints lacks it")
    digests = [checkpoints.sha256(file) for file in files]
    if digests[0] == digests[1]:
        return Finding(group, same=True, detail=f"SHA-256 {digests[0]}")
    found = first_other_tensor(group, one, other)
    return Finding(group, same=False, detail=found or "equal tensors, in files that differ")


def first_other_tensor(group: str, one: Checkpoint, other: Checkpoint) -> str | None:
    """The first tensor of a group, by name, that differs between two checkpoints, and how far; None if none does."""
    try:
        tensors, others = one.tensors(group), other.tensors(group)
    except (OSError, safetensors.SafetensorError) as error:
        return f"cannot be read: {error}"
    for name in sorted({*tensors, *others}):
        if name not in tensors or name not in others:
            return f"only one has the tensor {name}"
        if not checkpoints.same_bits(tensors[name], others[name]):
            return f"first differing tensor: {name}{how_far(tensors[name], others[name])}"
    return None


def how_far(one: Tensor, other: Tensor) -> str:
    """How many elements of two tensors differ, and by how much at most, as text."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return f", {one.dtype} {tuple(one.shape)} and {other.dtype} {tuple(other.shape)}"
    count = int((checkpoints.bits(one) != checkpoints.bits(other)).sum())
    return f", {count:,} of {one.numel():,} elements by at most {(one.double() - other.double()).abs().max():.3g}"


def _compare_counters(one: Checkpoint, other: Checkpoint) -> Finding:
    try:
        state, counterpart = one.state, other.state
        pairs = {name: (state[name], counterpart[name]) for name in COUNTERS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding("counters", same=False, detail=f"cannot be read: {error}")
    differing = [f"{name} is {a} and {b}" for name, (a, b) in pairs.items() if a != b]
    if not all(pairs["finished"]):
        differing.append("not both are finished")
    told = ", ".join(f"{name} {value}" for name, (value, _) in pairs.items())
    return Finding("counters", same=not differing, detail="; ".join(differing) or told)


def compare_journals(journals: dict[str, list[Record]]) -> list[Finding]:
    """Compare the records of two runs, given by their names."""
    return [_compare_updates(journals), _compare_numbers(*journals.values()), _compare_worlds(journals)]


def _compare_updates(journals: dict[str, list[Record]]) -> Finding:
    """Whether each journal has each update exactly once."""
    last = max(map(max, filter(None, map(numbers, journals.values()))), default=0)
    wrong = []
    for name, records in journals.items():
        count = Counter(numbers(records))
        wrong += [f"{name} has update {n} {count[n]} times" for n in range(1, last + 1) if count[n] != 1]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Finding("updates", same=False, detail=f"{wrong[0]}{more}")
    return Finding("updates", same=last > 0, detail=f"1 to {last} in both journals, each once")


def _compare_numbers(one: list[Record], other: list[Record]) -> Finding:
    """Whether the losses, norms and accuracies are equal to the last digit."""
    found, count = first_other_number(one, other), len(numbers_of(one))
    detail = found or f"{count} losses, norms and accuracies"
    return Finding("losses", same=found is None and count > 0, detail=detail)


def first_other_number(one: list[Record], other: list[Record], until: int | None = None) -> str | None:
    """The first loss, norm or accuracy, in the order of the journals, that differs between them; None if none does.

    ``until`` is the last update that both have, if they need not go equally far: there one may have stopped before it
    evaluated.
    """
    values, others = numbers_of(one), numbers_of(other)
    for place in {**values, **others}:
        update, kind, name = place
        both = place in values and place in others
        if not both and (name == "checksum" or (kind == "epoch" and update == until)):
            continue  # a fast run has no checksum
        if (until is None or update <= until) and values.get(place) != others.get(place):
            return f"{name} of the {kind} at update {update}: {values.get(place)} and {others.get(place)}"
    return None


def numbers_of(records: list[Record]) -> dict[tuple[int, str, str], str]:
    """What computing the same gives again, to the last digit, by update, kind of record and name."""
    return {
        (record["update"], record["kind"], name): repr(record[name])  # text: a NaN does not equal itself
        for record in records
        for name in COMPARED.get(record["kind"], ())
        if name in record
    }


def _compare_worlds(journals: dict[str, list[Record]]) -> Finding:
    """Whether every start had as many processes: to compare others would show nothing."""
    worlds = {name: [begin.get("world_size") for begin in begins(records)] for name, records in journals.items()}
    every = [size for sizes in worlds.values() for size in sizes]
    if all(worlds.values()) and len(set(every)) == 1:
        return Finding("world size", same=True, detail=f"{every[0]} in all {len(every)} starts")
    told = "; ".join(f"{name} had {', '.join(map(str, sizes)) or 'no start'}" for name, sizes in worlds.items())
    return Finding("world size", same=False, detail=told)


def report(findings: list[Finding]) -> bool:
    """Print what was found; whether all is the same."""
    rows = [(finding.what, f"{'same' if finding.same else 'DIFFERENT':<9}  {finding.detail}") for finding in findings]
    print("\n".join(aligned(rows)), end="\n\n")
    return all(finding.same for finding in findings)
