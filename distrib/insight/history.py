"""The history of a run from its journal, as columns: a million updates are read in seconds."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import json as arrow_json

from distrib.lifecycle import journal
from distrib.lifecycle.journal import Record
from distrib.settings import SettingsError

Column = NDArray[np.float64]

UPDATE = b'{"kind": "update", '
COLUMNS = (
    *("update", "epoch", "loss", "lr", "momentum", "grad_norm", "images_per_second", "data_wait_share"),
    "memory",
)
"""Numbers of an update record."""
OPTIONS = arrow_json.ParseOptions(
    explicit_schema=pa.schema([(name, pa.float64()) for name in COLUMNS]), unexpected_field_behavior="ignore"
)


@dataclass(frozen=True)
class History:
    """What happened in a run."""

    updates: dict[str, Column]
    """By name, the numbers of all updates, (updates,) float64; NaN where one has none, or where it is not finite."""
    epochs: list[Record]
    """The epoch records, in order; NaN where a number is not finite."""
    events: list[Record]
    """The event records, in order."""


def load_history(path: Path) -> History:
    """The history of the run whose journal is at ``path``. A last line cut short by a crash is left out.

    Raises:
        SettingsError: there is no journal, or a line is no record of one; says which.
    """
    updates, others = bytearray(), []
    try:
        with path.open("rb") as file:
            for line in file:
                if line.startswith(UPDATE) and line.endswith(b"\n"):
                    updates += line
                elif line.endswith(b"\n"):
                    others.append(journal.parse(line.decode(errors="replace")))
    except OSError as error:
        raise SettingsError(f"{path.parent} is no run folder: {path.name}: {error.strerror}") from None
    columns = _columns(updates)
    records = [record for record in others if record is not None]
    if columns is None or len(records) < len(others):
        list(journal.read(path))  # says which line it is
        raise SettingsError(f"{path} holds a record that is none of a run's")
    epochs = [_finite_or_nan(record) for record in records if record["kind"] == "epoch"]
    return History(columns, epochs, [record for record in records if record["kind"] == "event"])


def _finite_or_nan(record: Record) -> Record:
    """JSON knows no number that is not finite: the journal has null in its place."""
    return {name: math.nan if value is None else value for name, value in record.items()}


def _columns(lines: bytearray) -> dict[str, Column] | None:
    """The numbers of update records, by name; None if a line is none."""
    if not lines:
        return {name: np.empty(0) for name in COLUMNS}
    try:
        table = arrow_json.read_json(pa.BufferReader(lines), parse_options=OPTIONS)
    except pa.ArrowInvalid:
        return None
    if len(table) != lines.count(b"\n") or table["update"].null_count:
        return None
    return {name: _numbers(table[name].combine_chunks()) for name in COLUMNS}


def _numbers(column: pa.DoubleArray) -> Column:
    """As ``to_numpy`` gives them, NaN where there is none; that would import pandas first, for half a second."""
    there = np.from_dlpack(column.is_valid().cast(pa.uint8()))
    values = np.frombuffer(column.buffers()[1])[column.offset :][: len(column)]
    return np.where(there, values, np.nan)


def thin(values: Column, most: int) -> NDArray[np.int64]:
    """The places of at most ``most`` values that look on a chart as all do, in their order.

    Of each stretch of equal length they are the first, the smallest, the largest and the first that is NaN: no peak
    and no gap is lost. ``values`` is (n,) float64.
    """
    if len(values) <= most:
        return np.arange(len(values))
    length = -(-len(values) // (most // 4))
    padded = np.pad(values, (0, -len(values) % length), constant_values=np.nan).reshape(-1, length)
    gaps = np.isnan(padded)
    inside = [
        np.zeros(len(padded), np.int64),
        np.where(gaps, np.inf, padded).argmin(1),
        np.where(gaps, -np.inf, padded).argmax(1),
        gaps.argmax(1),
    ]
    places = np.unique(np.arange(len(padded)) * length + np.stack(inside))
    return places[places < len(values)]
