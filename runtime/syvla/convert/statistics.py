"""Statistics of a feature as LeRobot keeps them, in constant memory: min, max, mean, std, count and five quantiles.

Minimum, maximum, mean and deviation are exact. Quantiles of numbers are taken from at most 8192 evenly spaced rows,
those of pixels from a histogram, which is exact for the pixels that were looked at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from syvla.message import Array, Float64, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Stats = dict[str, list[Any]]  # (D,), of images (3, 1, 1)
_MOST_KEPT = 8192
_PIXEL_STRIDE = 4
_FRAME_STRIDE = 10


class Numbers:
    """Of a vector (D,) at each row."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._mean = np.zeros(width)
        self._squares = np.zeros(width)  # of differences from the mean
        self._least = np.full(width, np.inf)
        self._most = np.full(width, -np.inf)
        self._kept = np.empty((_MOST_KEPT, width))  # made at once: many small arrays would tear the heap to pieces
        self._rows_kept = 0
        self._stride = 1

    def add(self, values: Array) -> None:
        """One row."""
        row = np.asarray(values, np.float64).reshape(-1)
        if self._count % self._stride == 0:
            self._kept[self._rows_kept] = row
            self._rows_kept += 1
            if self._rows_kept == _MOST_KEPT:
                self._rows_kept //= 2
                self._kept[: self._rows_kept] = self._kept[::2].copy()
                self._stride *= 2
        self._count += 1
        difference = row - self._mean
        self._mean += difference / self._count
        self._squares += difference * (row - self._mean)
        np.minimum(self._least, row, out=self._least)
        np.maximum(self._most, row, out=self._most)

    def result(self) -> Stats:
        """What was found."""
        quantiles = np.quantile(self._kept[: self._rows_kept], list(QUANTILES.values()), axis=0)
        return {
            "min": self._least.tolist(),
            "max": self._most.tolist(),
            "mean": self._mean.tolist(),
            "std": np.sqrt(self._squares / self._count).tolist(),
            "count": [self._count],
            **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
        }


class Pixels:
    """Of an image's channels, from 0 to 1: every tenth row, every fourth pixel of every fourth line."""

    def __init__(self) -> None:
        self._rows = 0
        self._histogram = np.zeros((3, 256), np.int64)

    def wants(self) -> bool:
        """Whether the next row is looked at; if not, it is only counted."""
        self._rows += 1
        return self._rows % _FRAME_STRIDE == 1

    def add(self, rgb: UInt8) -> None:
        """A row that is looked at, (H, W, 3)."""
        thin = rgb[::_PIXEL_STRIDE, ::_PIXEL_STRIDE]
        for channel in range(3):
            self._histogram[channel] += np.bincount(thin[..., channel].ravel(), minlength=256)

    def result(self) -> Stats:
        """What was found, each (3, 1, 1)."""
        levels = np.arange(256) / 255.0
        total = int(self._histogram[0].sum())
        share = self._histogram / total
        mean = share @ levels
        std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 0.0))
        below = np.cumsum(share, axis=1)
        found = {
            "min": [levels[row.nonzero()[0][0]] for row in self._histogram],
            "max": [levels[row.nonzero()[0][-1]] for row in self._histogram],
            "mean": mean.tolist(),
            "std": std.tolist(),
            **{
                name: [levels[min(int(np.searchsorted(row, q)), 255)] for row in below] for name, q in QUANTILES.items()
            },
        }
        stats: Stats = {key: [[[float(value)]] for value in values] for key, values in found.items()}
        stats["count"] = [-(-self._rows // _FRAME_STRIDE)]
        return stats


def combined(episodes: Sequence[Mapping[str, Stats]]) -> dict[str, Stats]:
    """The statistics of all episodes together, feature by feature.

    Quantiles cannot be had from quantiles: those up to the median are the least of them, the others the greatest, as
    LeRobot does when it joins episodes.
    """
    return {feature: _combined([episode[feature] for episode in episodes]) for feature in episodes[0]}


def _combined(parts: Sequence[Stats]) -> Stats:
    def stacked(key: str) -> Float64:
        return np.array([part[key] for part in parts], np.float64)

    counts = stacked("count")
    means = stacked("mean")
    weights = counts.reshape(-1, *[1] * (means.ndim - 1)) / counts.sum()
    mean = (weights * means).sum(axis=0)
    variance = (weights * (stacked("std") ** 2 + (means - mean) ** 2)).sum(axis=0)
    result = {"min": stacked("min").min(axis=0), "max": stacked("max").max(axis=0), "mean": mean}
    result["std"] = np.sqrt(variance)
    for name, quantile in QUANTILES.items():
        result[name] = stacked(name).min(axis=0) if quantile <= 0.5 else stacked(name).max(axis=0)
    stats: Stats = {key: value.tolist() for key, value in result.items()}
    stats["count"] = [int(counts.sum())]
    return stats
