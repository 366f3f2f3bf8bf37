"""Random numbers without a generator: each draw is a hash of what it is for.

A draw is a function of a key (seed, epoch, purpose) and an image's index, in integer arithmetic alone. So it does not
matter which process, worker or device asks for it, in what order, or for how many images at once. The same lines serve
Python integers, NumPy arrays and torch tensors of 64-bit integers.
"""

from typing import Any

Integers = Any  # int, np.ndarray (int64) or torch.Tensor (int64): what goes in comes out

MASK = 0xFFFFFFFF


def mix(x: Integers) -> Integers:
    """Scramble 32-bit integers held in 64-bit ones, each to another 32-bit integer, one to one.

    The multipliers and shifts are Chris Wellons' "lowbias32" (https://github.com/skeeto/hash-prospector).
    """
    x = (x ^ (x >> 16)) & MASK
    x = (x * 0x7FEB352D) & MASK
    x = (x ^ (x >> 15)) & MASK
    # 64-bit multiplication may wrap round, but the 32 bits kept are right all the same.
    x = (x * -0x7B935975) & MASK  # 0x846CA68B as a signed number, which every integer type holds
    return (x ^ (x >> 16)) & MASK


def key(*parts: int) -> int:
    """Fold integers, such as (seed, epoch, purpose), into one 32-bit key. Their order matters."""
    folded = 0x9E3779B9
    for part in parts:
        folded = mix((folded ^ mix(part & MASK)) + 0x6A09E667 & MASK)
    return folded


def draw(folded: int, index: Integers, below: int) -> Integers:
    """Draw one integer in [0, ``below``) for each ``index``, equally likely but for a bias of ``below`` / 2**32."""
    return (mix(mix(index ^ folded) + folded & MASK) * below) >> 32
