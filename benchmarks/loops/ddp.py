"""A step of DDP taken apart, for scaling.py, which starts one of these for each process.

    torchrun --nproc-per-node 2 benchmarks/loops/ddp.py [--network NAME] [--batch N] [--comm KIND] [--updates N]

Rank 0 prints JSON, of the median step in seconds: ``step`` as it is, ``compute`` without any communication,
``exchange`` of all gradients alone, as they are or in bf16, in DDP's buckets one after the other; and ``bytes``, of
the gradients in float32.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from stopwatch import SIDE, network
from torch.nn.parallel import DistributedDataParallel

from distrib.learning.compression import compress
from distrib.lifecycle.allocator import keep_pages
from distrib.lifecycle.leaving import leave

BUCKET = 25 * 2**20  # bytes of DDP's buckets, but for the first, which has 1 MiB
FIRST = 2**20


def timed(step: Callable[[], None], updates: int) -> float:
    """Median seconds of a step, after two to warm up, all processes beginning each together."""
    seconds = []
    for _ in range(updates + 2):
        dist.barrier()
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def buckets(total: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Tensors as large as DDP's buckets of so many bytes of float32 gradients."""
    sizes = [min(FIRST, total)] + [min(BUCKET, total - at) for at in range(FIRST, total, BUCKET)]
    return [torch.zeros(size // 4, dtype=dtype) for size in sizes]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=64, help="images of this process")
    parser.add_argument("--comm", choices=("fp32", "bf16", "powersgd"), default="fp32")
    parser.add_argument("--updates", type=int, default=8)
    asked = parser.parse_args()
    keep_pages()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    net = network(asked.network).to(memory_format=torch.channels_last).train()
    total = sum(4 * p.numel() for p in net.parameters())
    parallel = DistributedDataParallel(net, gradient_as_bucket_view=True)
    parallel.broadcast_buffers = False
    sender = compress(parallel, asked.comm, updates=0)
    images = torch.randn(asked.batch, 3, SIDE, SIDE).bfloat16().contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(asked.batch, dtype=torch.int64)
    done = 0

    def step() -> None:
        nonlocal done
        if sender is not None:
            sender.begin(done)
        done += 1
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(parallel(images), labels)
        loss.backward()

    def alone() -> None:
        with parallel.no_sync():
            step()

    dtype = torch.bfloat16 if asked.comm == "bf16" else torch.float32
    whole = buckets(total, dtype)

    def exchange() -> None:
        for bucket in whole:
            dist.all_reduce(bucket)

    found = {
        "step": timed(step, asked.updates),
        "compute": timed(alone, asked.updates),
        "exchange": timed(exchange, asked.updates),
        "bytes": total,
    }
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    leave(main)
