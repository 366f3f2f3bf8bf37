"""Where tensors on the CPU come from: glibc is told to keep the pages of what was freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's <malloc.h>
NEVER = 2**31 - 1
AHEAD = 2**28  # bytes that the heap grows by at least


def keep_pages() -> bool:
    """Let blocks of any size come from the heap, and let the heap never shrink; whether that could be arranged.

    By default glibc maps a large block anew for each tensor and unmaps it with the tensor. A network's activations are
    such blocks: in every update the kernel hands out, clears and takes back gigabytes of pages, on the cores that
    should compute. Kept, they are handed from update to update. The process then holds the most it ever needed, and a
    little more, as blocks of different sizes share the heap.

    What was allocated before stays where it is, so this comes before the first tensor. Only glibc knows of it, on
    Linux: elsewhere nothing happens.

    Source: mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return False
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_TOP_PAD: AHEAD}
    return all(mallopt(option, value) for option, value in wanted.items())  # 1 each time, in every version of glibc
