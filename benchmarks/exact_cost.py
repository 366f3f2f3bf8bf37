"""What ``--exact`` costs: time and bytes of an update, and memory, against fast training of the same micro-batches.

    python benchmarks/exact_cost.py [PAIRS [WORLD ...]]

ResNet-18, batches of 128 images of 32x32 pixels, eight virtual ranks: micro-batches of 16 images in both, one thread
for each process. Each number of processes trains stretches of two updates by turns in both ways, within the same
processes. Bytes are those that the machine's network interfaces counted, divided by the processes and updates. Memory
is the most that a process held resident, of processes that trained in one way only. Ten minutes on two CPU cores.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from distrib.assembly import assemble
from distrib.learning.engine import Trainer
from distrib.lifecycle.ending import Ending
from distrib.lifecycle.folder import RunFolder
from distrib.lifecycle.heartbeat import Pulse
from distrib.lifecycle.processes import Processes, start
from distrib.settings import Compute, Data, Lifecycle, Model, Optimization, Settings

BATCH, VIRTUAL, STRETCH = 128, 8, 2
WAYS = ("fast", "exact")
COMPUTE = Compute(device="cpu", threads=1)


def build(processes: Processes, out: Path, way: str) -> Trainer:
    """The trainer, as the command would build it."""
    settings = Settings(
        model=Model(model="resnet18"),
        data=Data(data="synthetic", image_size=32, train_images=BATCH * 50, test_images=10),
        optimization=Optimization(batch_size=BATCH, micro_batch=BATCH // VIRTUAL, epochs=1000),
        compute=replace(COMPUTE, exact=True, virtual_ranks=VIRTUAL) if way == "exact" else COMPUTE,
        lifecycle=Lifecycle(log_every=1),
    )
    folder = RunFolder(out / way)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    trainer = assemble(settings, processes, folder, None, SimpleNamespace(signal=None, at_once=False), Pulse())
    trainer.reduction.network.train()
    return trainer


def sent() -> int:
    """Bytes that all network interfaces of this machine have sent."""
    rows = [line.split(":")[1].split() for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line]
    return sum(int(row[8]) for row in rows)


def most_resident() -> int:
    """The most bytes that this process had in memory since this was last forgotten."""
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024


def worker(out: Path, ways: list[str], pairs: int) -> None:
    """Measure in one of the processes; rank 0 writes what it saw."""
    processes = start(COMPUTE)
    trainers = {way: build(processes, out, way) for way in ways}
    batches = {way: trainer.feed.train(0) for way, trainer in trainers.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    traffic: dict[str, list[float]] = {way: [] for way in ways}
    Path("/proc/self/clear_refs").write_text("5")  # what building took is not meant
    for pair in range(pairs + 1):
        for way in ways if pair % 2 else ways[::-1]:
            torch.use_deterministic_algorithms(way == "exact")
            processes.gather(None)
            before, started = sent(), time.perf_counter()
            for _ in range(STRETCH):
                trainers[way].train_step(batches[way])
            took = time.perf_counter() - started
            processes.gather(None)  # all have sent
            if pair:  # the first warms up
                seconds[way].append(took / STRETCH)
                traffic[way].append((sent() - before) / STRETCH / processes.size)
    if processes.is_main:
        gradients = sum(p.numel() * p.element_size() for p in trainers[ways[0]].state.network.parameters())
        found = {"seconds": seconds, "traffic": traffic, "gradients": gradients, "memory": most_resident()}
        (out / "found.json").write_text(json.dumps(found | {"precision": processes.precision, "world": processes.size}))
    for trainer in trainers.values():
        trainer.reduction.close()
    processes.close(Ending())


def launch(world: int, ways: list[str], pairs: int) -> dict:
    """What a group of processes measured."""
    with tempfile.TemporaryDirectory() as out:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        words = [sys.executable, *torchrun, __file__, "worker", out, ",".join(ways), str(pairs)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads((Path(out) / "found.json").read_text())
    assert found["world"] == world
    return found


def main() -> None:
    """Measure and print."""
    pairs, *worlds = map(int, sys.argv[1:] or ["8"])
    if pairs < 2:
        raise SystemExit("PAIRS is at least 2, to tell how far the ratios spread")
    for world in worlds or (1, 2, 4):
        found = launch(world, [*WAYS], pairs)
        ratios = [exact / fast for fast, exact in zip(*(found["seconds"][way] for way in WAYS), strict=True)]
        spread = statistics.quantiles(ratios, n=4)
        fast, exact = (statistics.median(found["seconds"][way]) for way in WAYS)
        print(
            f"world {world}, {found['precision']}: fast {fast * 1000:.0f} ms, exact {exact * 1000:.0f} ms an update; "
            f"ratio {statistics.median(ratios):.3f} (quartiles {spread[0]:.3f} to {spread[2]:.3f}, {pairs} pairs)",
            flush=True,
        )
        sizes = [statistics.median(found["traffic"][way]) / found["gradients"] for way in WAYS]
        memory = [launch(world, [way], 2)["memory"] / 2**20 for way in WAYS]
        print(
            f"  sent by each process: fast {sizes[0]:.2f}, exact {sizes[1]:.2f} times the gradients' "
            f"{found['gradients'] / 1e6:.1f} MB; resident at most: fast {memory[0]:.0f}, exact {memory[1]:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(Path(sys.argv[2]), sys.argv[3].split(","), int(sys.argv[4]))
    else:
        main()
