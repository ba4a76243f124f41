"""Monotonic nanoseconds: the only time the runtime knows. Hosts read it, stages are handed it."""

import time

NS_PER_S = 1_000_000_000


def monotonic_ns() -> int:
    """Nanoseconds of CLOCK_MONOTONIC, shared by every process of this machine."""
    return time.monotonic_ns()


def wall_offset_ns() -> int:
    """The wall clock minus the monotonic one, to within the time that reading a clock takes.

    A run takes it once, to say afterwards when on the clock something was, and to understand stamps that are told in
    wall time. Whoever sets the clock meanwhile changes no age.
    """
    readings = []
    for _ in range(16):  # of which the one that was interrupted least counts
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        readings.append((after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return min(readings)[1]


def to_s(duration_ns: int) -> float:
    """Nanoseconds to seconds."""
    return duration_ns / NS_PER_S


def to_ns(duration_s: float) -> int:
    """Seconds to the nearest nanosecond."""
    return round(duration_s * NS_PER_S)
