"""Measures one process for its Health message: steps, lateness, and what the bus refused or dropped."""

import os

import numpy as np

from syvla.messages import Health
from syvla.protocols import Incoming

PERIOD_NS = 500_000_000


class HealthMeter:
    """Collects step durations and lateness; ``take`` gives the Health since the last one."""

    def __init__(self, process: str, realtime: str) -> None:
        self.process = process
        self.realtime = realtime
        self._steps_ns: list[int] = []
        self._lateness_ns: list[int] = []
        self._next_ns = 0

    def add_step(self, duration_ns: int, lateness_ns: int | None = None) -> None:
        """Note one step; only a periodic one can be late."""
        self._steps_ns.append(duration_ns)
        if lateness_ns is not None:
            self._lateness_ns.append(lateness_ns)

    def due(self, now_ns: int) -> bool:
        """Whether half a second has passed."""
        return now_ns >= self._next_ns

    def take(self, now_ns: int, inlet: Incoming, outlet_dropped: int, missed_ticks: int) -> Health:
        """The Health since the last one; starts the next."""
        self._next_ns = now_ns + PERIOD_NS
        step = _quantiles_s(self._steps_ns)
        lateness = _quantiles_s(self._lateness_ns)
        health = Health(
            process=self.process,
            stamp_ns=now_ns,
            pid=os.getpid(),
            realtime=self.realtime,
            steps=len(self._steps_ns),
            step_p50_s=step[0],
            step_p99_s=step[1],
            step_max_s=step[2],
            lateness_p50_s=lateness[0],
            lateness_p99_s=lateness[1],
            lateness_max_s=lateness[2],
            received=inlet.received,
            refused=inlet.refused,
            dropped=inlet.dropped + outlet_dropped,
            last_refusal=inlet.last_refusal[:512],
            missed_ticks=missed_ticks,
            lateness_s=np.asarray(self._lateness_ns[-4096:], dtype=np.float32) * np.float32(1e-9),
        )
        self._steps_ns.clear()
        self._lateness_ns.clear()
        return health


def _quantiles_s(values_ns: list[int]) -> tuple[float, float, float]:
    if not values_ns:
        return 0.0, 0.0, 0.0
    ordered = np.sort(np.asarray(values_ns, dtype=np.int64))
    last = len(ordered) - 1
    return tuple(float(ordered[round(q * last)]) * 1e-9 for q in (0.5, 0.99, 1.0))  # type: ignore[return-value]
