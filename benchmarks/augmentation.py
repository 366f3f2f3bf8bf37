"""Images/s that one thread varies in memory: picked, shifted, mirrored and normalised, as training does.

python benchmarks/augmentation.py
"""

import statistics
import time

import torch

from distrib.images.augmentation import BatchAugmentation
from distrib.images.feed import Preprocessing

IMAGES, SIDE, BATCH, ROUNDS = 50_000, 32, 512, 200


def rate(dtype: torch.dtype) -> float:
    """Images/s, the median of many batches, into ``dtype``."""
    torch.set_num_threads(1)
    pixels = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8)
    augment = BatchAugmentation(seed=0, padding=4, reflect=False, flip="random", cutout=0)
    prepared = Preprocessing(SIDE, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), ())
    order = torch.randperm(IMAGES)
    seconds = []
    for number in range(ROUNDS):
        started = time.perf_counter()
        picked = order[number * BATCH % (IMAGES - BATCH) :][:BATCH]
        varied = augment(pixels.index_select(0, picked), picked, number)
        prepared.normalise(varied, channels_last=True, dtype=dtype)
        seconds.append(time.perf_counter() - started)
    return BATCH / statistics.median(seconds)


if __name__ == "__main__":
    for kind in (torch.float32, torch.bfloat16):
        print(f"{kind}: {rate(kind):,.0f} images/s on one thread")
