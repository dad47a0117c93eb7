"""A seeded order of any number of things, of which any part can be asked for without the others."""

import hashlib

import numpy as np
import numpy.typing as npt

from llamita.text.shards import IntArray


def permuted(indices: IntArray, size: int, seed: int, epoch: int) -> IntArray:
    """Where a seeded permutation of range(size) sends some indices; the others cost nothing.

    A balanced Feistel network (Luby, Rackoff 1988) over a power of 4, walked until it is back in range
    (Black, Rogaway 2002); the round function is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = random_words("order", seed, epoch)
    image = indices.astype(np.uint64)
    outside = np.full(indices.shape, True)
    while outside.any():
        left, right = image[outside] >> half, image[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        image[outside] = left << half | right
        outside = image >= size
    return image.astype(np.int64)


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


def random_words(purpose: str, seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """Eight words that depend on nothing but the arguments, on any machine and with any version of numpy."""
    return np.frombuffer(hashlib.sha512(f"{purpose} {seed} {epoch}".encode()).digest(), "<u8")
