"""DDP's reducer, brought to its final state before the first update."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distrib.images.feed import Feed
from distrib.lifecycle.processes import Processes


def warm_up(network: nn.Module, feed: Feed, processes: Processes, *, channels_last: bool, compiled: bool) -> None:
    """Run two throw-away backward passes; afterwards all is as before, but for the layout of DDP's buckets.

    In its first backward pass DDP learns the order in which gradients become ready, and lays out its buckets anew
    before the second. With three processes or more a sum depends on the layout in its last bits: a run that goes on
    from a checkpoint would compute its first update in the first layout, where the run that nothing interrupted
    computed it in the second. So both begin in the second. Two images are enough, as the order does not depend on
    their number; a compiled network is given as many as in training, or it would be compiled for both.
    """
    if not isinstance(network, DistributedDataParallel):
        return
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    size = feed.preprocessing.size
    rows = -(-feed.plan.share // feed.plan.micro_batches) if compiled else 2
    pixels = torch.zeros(rows, size, size, 3, dtype=torch.uint8, device=processes.device)
    network.train()
    for _ in range(2):
        # Updates seed the generators for themselves: what dropout draws here changes nothing.
        network(feed.preprocessing.normalise(pixels, channels_last=channels_last)).sum().backward()
        network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
