"""What it costs that nothing is lost: updates with saves, watchdog and checks, against updates without any of them.

    python benchmarks/lifecycle_cost.py [PAIRS]

ResNet-18, batches of 128 images of 32x32 pixels, SGD. One process trains stretches of 50 updates by turns with and
without; each stretch with begins with a save, whose writing in the background so falls into the same stretch. Printed
are the seconds of each pair and the median of the ratios. Half an hour on two CPU cores for four pairs in fp32.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from distrib.assembly import assemble
from distrib.learning import engine
from distrib.learning.divergence import Guard, poisoned
from distrib.learning.engine import Trainer
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Heartbeats, Pulse
from distrib.lifecycle.journal import read
from distrib.lifecycle.processes import start
from distrib.lifecycle.watchdog import Watchdog
from distrib.settings import Compute, Data, Lifecycle, Model, Optimization, Settings

UPDATES = 50


class Unguarded:
    """What the engine would do without checks."""

    def remember(self) -> None:
        """Keep nothing."""

    def step(self, optimizer: object, _norm: object) -> None:
        """Step whatever the gradients are."""
        optimizer.step()


def build(out: Path) -> Trainer:
    """The trainer, as the command would build it."""
    settings = Settings(
        model=Model(model="resnet18"),
        data=Data(data="synthetic", image_size=32, train_images=128 * UPDATES, test_images=10),
        optimization=Optimization(batch_size=128, epochs=1000),
        compute=Compute(device="cpu"),
        lifecycle=Lifecycle(log_every=UPDATES),
    )
    folder = RunFolder(out)
    folder.checkpoints.mkdir()
    folder.heartbeats.mkdir()
    processes = start(settings.compute)
    return assemble(settings, processes, folder, None, SimpleNamespace(signal=None, at_once=False), Pulse())


def stretch(trainer: Trainer, *, safe: bool) -> float:
    """Seconds of 50 updates, an epoch of its own, with everything or nothing that watches over them."""
    trainer.guard = Guard(trainer.state.network) if safe else Unguarded()
    engine.poisoned = poisoned if safe else lambda loss, factor: loss * factor
    watchdog = Watchdog(Heartbeats(trainer.folder.heartbeats, trainer.processes), timeout=300.0)
    trainer.pulse = watchdog.pulse
    batches = trainer.feed.train(0)
    trainer.reduction.network.train()
    started = time.perf_counter()
    if safe:
        watchdog.start()
        trainer.save(wait=False)
    for _ in range(UPDATES):
        trainer.train_step(batches)
        if safe:
            trainer.poll()
    trainer.report()
    seconds = time.perf_counter() - started
    if safe:
        trainer.snapshots.note(wait=True)
        watchdog.close(Ending())
    return seconds


def main() -> None:
    """Measure and print."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    with tempfile.TemporaryDirectory() as out:
        trainer = build(Path(out))
        stretch(trainer, safe=True)  # memory and kernels warm up
        ratios = []
        for pair in range(pairs):
            order = (True, False) if pair % 2 else (False, True)
            seconds = {safe: stretch(trainer, safe=safe) for safe in order}
            ratios.append(seconds[True] / seconds[False])
            print(f"with {seconds[True]:.2f} s, without {seconds[False]:.2f} s, ratio {ratios[-1]:.4f}", flush=True)
        trainer.journal.close()
        waits = [record["wait"] for record in read(trainer.folder.journal) if record.get("event") == "checkpoint"]
    print(
        f"precision {trainer.processes.precision}, training waited {statistics.median(waits) * 1000:.0f} ms for a save"
    )
    print(f"median ratio {statistics.median(ratios):.4f} of {pairs} pairs of {UPDATES} updates")


if __name__ == "__main__":
    main()
