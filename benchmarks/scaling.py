"""How training scales with processes: measured here and over a narrow link, and a model fitted to that.

    python benchmarks/scaling.py here               1, 2 and 4 processes on this machine against the same work undivided
    python benchmarks/scaling.py link               two hosts (network namespaces) with a link of several bandwidths:
                                                    fits the model to some settings, checks it on others; needs root
    python benchmarks/scaling.py model [PICTURE]    what the model says of 1 to 1,024 GPUs, and a picture of it

The model is in :mod:`scaling_model`. ``link`` shapes bandwidth with ``tc``'s token bucket; how long a message takes
that is all but empty is measured, not shaped.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scaling_model import PICTURE, Link, Step, draw, fit, table
from throughput import LOOPS, ROOT, run, words

SPACES = ("distrib-bench-a", "distrib-bench-b")
ADDRESSES = ("10.78.0.1", "10.78.0.2")
# Megabits per second, network, how gradients are sent. The model is fitted to the first and checked on the others.
FITTED = ((200, "resnet18", "fp32"), (1000, "resnet18", "fp32"), (4000, "resnet18", "fp32"))
HELD_OUT = ((500, "resnet18", "fp32"), (2000, "resnet18", "bf16"), (500, "resnet9", "fp32"), (300, "resnet9", "bf16"))


def here(rounds: int) -> None:
    """Updates/s of the command with 1, 2 and 4 processes and one global batch, by turns."""
    found: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for number in range(rounds):
        for world in list(found)[:: -1 if number % 2 else 1]:
            found[world].append(updates_per_second(world))
            print(f"  round {number + 1}: {world} processes, {found[world][-1]:.3f} updates/s", flush=True)
    for world, rates in found.items():
        shares = [rate / alone for rate, alone in zip(rates, found[1], strict=True)]
        print(f"{world} processes: {statistics.median(shares):.2f} of the rate undivided")

    for world in (2, 4):
        for comm in ("fp32", "bf16", "powersgd"):
            step = taken_apart(world, comm)
            parts = f"step {step.step:.3f} s, computing alone {step.compute:.3f} s"
            if comm != "powersgd":  # what that sends is made of the gradients, and not to be had without them
                hidden = max(step.compute + step.exchange - step.step, 0) / step.exchange
                parts += f", exchange alone {step.exchange:.3f} s, {hidden:.0%} of it hidden"
            print(f"{world} processes, {comm}: {parts}", flush=True)


def taken_apart(world: int, comm: str) -> Step:
    """A step of ResNet-18, with 128 images in all."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    told = run([*start, LOOPS / "ddp.py", "--batch", str(128 // world), "--comm", comm, "--updates", "5"])
    found = re.search(r"{.*}", told)
    assert found is not None, told
    return Step(**json.loads(found[0]))


def updates_per_second(world: int, batch: int = 128, updates: int = 12) -> float:
    """Of ResNet-18 with so many processes, which share the cores and the batch, after three updates to warm up."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    threads = max(1, (os.cpu_count() or 1) // world)
    flags = {
        "model": "resnet18", "batch-size": batch, "precision": "bf16", "data": "synthetic", "image-size": 32,
        "train-images": batch * (updates + 3), "test-images": 16, "epochs": 1, "log-every": 3, "wandb": "off",
        "device": "cpu", "threads": threads,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        first = start if world > 1 else [sys.executable]
        run([*first, ROOT / "distrib/train.py", "--no-report", *words(flags), "--out", out, "--name", "run"])
        lines = map(json.loads, (Path(out) / "run/metrics.jsonl").read_text().splitlines())
        speeds = [record["images_per_second"] for record in lines if record["kind"] == "update"][3:]
    return len(speeds) / sum(batch / speed for speed in speeds)


@contextmanager
def cable() -> Iterator[None]:
    """Two namespaces with a cable between them; gone afterwards."""
    first, second = SPACES
    try:
        for space in SPACES:
            ip("netns", "add", space)
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for space, address in zip(SPACES, ADDRESSES, strict=True):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", space, "link", "set", device, "up")
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)  # noqa: S603, S607


def ip(*words: str) -> None:
    """The command of that name."""
    subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: S603, S607


def shape(megabits: int) -> None:
    """Let the cable carry so much in each direction."""
    for space in SPACES:
        words = f"tc qdisc replace dev cable root tbf rate {megabits}mbit burst 256kb latency 50ms".split()
        ip("netns", "exec", space, *words)


def over_link(network: str, comm: str) -> Step:
    """A step of two processes, one at each end of the cable."""
    started = []
    for rank, space in enumerate(SPACES):
        place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": 29555}
        place |= {"GLOO_SOCKET_IFNAME": "cable", "PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1}
        words = ["ip", "netns", "exec", space, sys.executable, LOOPS / "ddp.py", "--network", network, "--comm", comm]
        words += ["--batch", "16", "--updates", "4"]
        environment = os.environ | {name: str(value) for name, value in place.items()}
        started.append(subprocess.Popen([*map(str, words)], env=environment, stdout=subprocess.PIPE, text=True))  # noqa: S603
    told = [process.communicate()[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    return Step(**json.loads(told[0].splitlines()[-1]), half=comm == "bf16")


def link() -> None:
    """Fit the model to some settings and say how far it is from the others."""
    found: dict[tuple[int, str, str], Step] = {}
    with cable():
        for setting in (*FITTED, *HELD_OUT):
            shape(setting[0])
            found[setting] = over_link(*setting[1:])
            print(f"  {setting}: {found[setting]}", flush=True)
    fitted = fit([(setting[0], found[setting]) for setting in FITTED])
    print(fitted)
    for setting in (*FITTED, *HELD_OUT):
        step = found[setting]
        said = fitted.step(step, Link(setting[0] * 1e6 / 8), world=2)
        kind = "fitted" if setting in FITTED else "held out"
        print(f"{kind:>8} {setting}: {step.step:.3f} s measured, {said:.3f} s said, {said / step.step - 1:+.0%}")


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("here", "link", "model"))
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.what == "here":
        here(asked.rounds)
    elif asked.what == "link":
        link()
    else:
        print(table())
        draw(asked.picture)


if __name__ == "__main__":
    main()
