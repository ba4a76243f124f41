"""Monotonic nanoseconds: the only time the runtime knows. Hosts read it, stages are handed it."""

import time

NS_PER_S = 1_000_000_000


def monotonic_ns() -> int:
    """Nanoseconds of CLOCK_MONOTONIC, shared by every process of this machine."""
    return time.monotonic_ns()


def to_s(duration_ns: int) -> float:
    """Nanoseconds to seconds."""
    return duration_ns / NS_PER_S


def to_ns(duration_s: float) -> int:
    """Seconds to the nearest nanosecond."""
    return round(duration_s * NS_PER_S)
