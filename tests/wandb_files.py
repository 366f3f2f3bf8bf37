"""Reading back what W&B wrote: its ``*.wandb`` files are logs in LevelDB's format of protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
HEADER = struct.Struct("<IHB")
"""Checksum, length and type of a piece; the file's own seven bytes of identification are as long."""
FULL, LAST = 1, 4


def history(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of history by run id, over every ``*.wandb`` file below a folder, in order of time."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.rglob("*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        name = file.stem.removeprefix("run-")
        for record in records(file):
            if record.HasField("run"):
                name = record.run.run_id
            elif record.HasField("history"):
                items = record.history.item
                row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
                rows.setdefault(name, []).append(row)
    return rows


def records(file: Path) -> Iterator[Record]:
    """Yield the records of a file up to its end, or to the piece at which a kill cut it off."""
    content = file.read_bytes()
    assert content[:4] == b":W&B", f"{file} is no W&B file"
    whole, at = b"", HEADER.size
    while at + HEADER.size <= len(content):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, at)
        at += HEADER.size
        if at + length > len(content):
            return
        whole += content[at : at + length]
        at += length
        if kind in (FULL, LAST):
            yield Record.FromString(whole)
            whole = b""
