"""Randomness as tables: one table per (seed, purpose, epoch), drawn on the CPU and indexed by example.

Any batch of any past step can be rebuilt from (seed, epoch, its examples' indices) alone, whatever the
micro-batches, the ranks and the device were.
"""

import zlib

import numpy as np
from numpy.typing import NDArray


def generator(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """The stream of `purpose` in `epoch`: independent of every other purpose and epoch of the same seed."""
    entropy = (seed, zlib.crc32(purpose.encode()), epoch)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def order(seed: int, epoch: int, examples: int) -> NDArray[np.int64]:
    """The order in which an epoch visits its examples: a permutation of `range(examples)`, shape (examples,)."""
    return generator(seed, "order", epoch).permutation(examples)
