"""How many threads a model's process gets."""

import os

FEW_CORES = 4


def model_threads(count: int | None = None) -> int:
    """``count``; by default one where few cores are shared with the rest of the loop, else half of them."""
    cores = len(os.sched_getaffinity(0))
    return count or (1 if cores <= FEW_CORES else cores // 2)
