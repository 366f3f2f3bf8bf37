"""Images/s that one core decodes, crops at random, scales to 224 pixels and mirrors: ours and torchvision's, by turns.

    python benchmarks/decoding.py PARQUET_FOLDER [--rounds N]

The folder holds photographs as Hugging Face's data sets do, in JPEG. All make batches of 32. ``v2`` is torchvision's
``transforms.v2`` as its documentation has it, on tensors of its own JPEG decoder, and on Pillow's images; it ends in
normalised floats, or in bytes where told so. Ours ends in bytes: what follows is done for the whole batch on the
device. ``packed`` are the same photographs after ``distrib pack`` with its default side of 256 pixels.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from interleaved import Measure, Ratio, against
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from distrib.images import packed, packing, sources
from distrib.images.augmentation import BatchAugmentation
from distrib.images.splits import Split, TableSplit
from distrib.images.workers import Decoding
from distrib.lifecycle.allocator import keep_pages
from distrib.settings import Data

IMAGES, BATCH, SIDE = 288, 32, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(split: Split) -> float:
    """Images/s of our workers' code and what is done to their batches."""
    decoding = Decoding(split, SIDE, seed=0, resized=True)
    augment = BatchAugmentation(seed=0, padding=0, reflect=False, flip="random", cutout=0)

    def batch(indices: list[int]) -> Tensor:
        rows = np.array(indices)
        return augment(decoding[0, rows].images, torch.from_numpy(rows), 0)

    return rate(batch)


def theirs(contents: list[bytes], decode: Callable[[bytes], object], *last: object) -> float:
    """Images/s of a pipeline of torchvision's: crop and flip, and what comes ``last``."""
    transform = v2.Compose([v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip(), *last])
    return rate(lambda indices: default_collate([transform(decode(contents[index])) for index in indices]))


def rate(batch: Callable[[list[int]], Tensor]) -> float:
    """Images/s, after one batch to warm up."""
    torch.manual_seed(0)
    batch(list(range(BATCH)))
    started = time.perf_counter()
    for at in range(0, IMAGES, BATCH):
        found = batch(list(range(at, at + BATCH)))
        assert len(found) == BATCH
    return IMAGES / (time.perf_counter() - started)


def as_tensor(content: bytes) -> Tensor:
    """Decoded by torchvision."""
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)


def as_image(content: bytes) -> Image.Image:
    """Decoded by Pillow."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def pipelines(contents: list[bytes]) -> dict[str, Measure]:
    """torchvision's, by name."""
    floats = (v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD))
    return {
        "v2 on tensors": partial(theirs, contents, as_tensor, *floats),
        "v2 on Pillow's images": partial(theirs, contents, as_image, v2.ToImage(), *floats),
        "v2 on tensors, bytes out": partial(theirs, contents, as_tensor),
    }


def compare(folder: Path, rounds: int) -> dict[str, Ratio]:
    """How many times each of torchvision's pipelines ours is, and the packed ones are of the first."""
    torch.set_num_threads(1)
    keep_pages()  # as training does; it serves all
    split = sources.load(f"hf:{folder}", Data(data=f"hf:{folder}")).train
    assert isinstance(split, TableSplit)
    contents = [split.table[index]["image"]["bytes"] for index in split.rows[:IMAGES].tolist()]
    others = pipelines(contents)
    found = {f"decoding / {name}": times for name, times in against(partial(ours, split), others, rounds).items()}
    with tempfile.TemporaryDirectory() as scratch:
        for form in ("jpeg", "raw"):
            out = Path(scratch) / form
            packing.main([str(out), "--data", f"hf:{folder}", "--form", form])
            stored = packed.load(out).train
            first = {"v2 on tensors": others["v2 on tensors"]}
            times = against(partial(ours, stored), first, rounds)
            found[f"packed {form} / v2 on tensors"] = times["v2 on tensors"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for name, times in compare(asked.folder.resolve(), asked.rounds).items():
        print(f"{name}: {times}")


if __name__ == "__main__":
    main()
