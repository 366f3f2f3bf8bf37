import platform
import subprocess
import sys

import pytest

# Pages that the kernel hands out while a tensor of 64 MiB is made again and again.
PROGRAM = """
import resource, sys
import torch
from distrib.lifecycle.allocator import keep_pages
assert sys.argv[1] == "no" or keep_pages()
def faults():
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(40)]
print(counts[-1] - counts[-11])  # at first small blocks find their places between the large ones
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep its pages")
def test_memory_that_was_freed_is_used_again() -> None:
    told = {}
    for kept in ("yes", "no"):
        command = [sys.executable, "-c", PROGRAM, kept]
        told[kept] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["yes"] < 100
    assert told["no"] > 10 * 100  # huge pages, where the kernel gives them, are few
