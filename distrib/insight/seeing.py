"""``distrib verify seen FILE UPDATES FLAGS``: what ``distrib verify order`` starts on several numbers of processes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from distrib import command
from distrib.images import sources
from distrib.images.feed import Feed
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.processes import Processes, start
from distrib.settings import Settings

READ = 2  # in the second, augmentation draws anew


def main(arguments: list[str]) -> int:
    """Hash the images that each process sees; rank 0 writes what all have seen, in the order of updates and shares."""
    file, updates, *flags = arguments
    settings = command.parse(flags)
    with Ending() as ending:
        processes = start(settings.compute)
        ending.then(processes.close)
        rows = list(seen(settings, processes, int(updates)))
        everyone = [row for rank in processes.gather(rows) for row in rank]
        if processes.is_main:
            everyone.sort(key=lambda row: row[0])
            Path(file).write_text(json.dumps({"world": processes.size, "seen": everyone}), encoding="utf-8")
    return ending.code


def seen(settings: Settings, processes: Processes, updates: int) -> Iterator[tuple[int, int, str]]:
    """(update, index, SHA-256 of pixels and label) of the images of this process in the first updates of each epoch."""
    place = processes.agreed(lambda: sources.locate(settings.data))
    data = processes.node_first(lambda: sources.load(place, settings.data))
    feed = Feed(data, settings, processes, processes.device)
    plan = feed.plan
    each = len(plan.own) * plan.micro_batches
    for epoch in range(READ):
        count = min(updates, plan.updates_per_epoch)
        for number, batch in zip(range(count * each), feed.train(epoch), strict=False):
            update = epoch * plan.updates_per_epoch + number // each + 1
            for index, pixels, label in zip(batch.indices, batch.pixels.cpu(), batch.labels.cpu(), strict=True):
                digest = hashlib.sha256(pixels.numpy().tobytes() + label.numpy().tobytes()).hexdigest()
                yield update, int(index), digest
