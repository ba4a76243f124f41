"""What the 200 Hz process asks of the kernel, and the absolute-deadline rate keeper."""

import ctypes
import ctypes.util
import gc
import os
import sys
import time

from syvla.config import RealtimeConfig

_MCL_CURRENT = 1
_MCL_FUTURE = 2


def go_realtime(config: RealtimeConfig) -> str:
    """Ask for SCHED_FIFO and locked memory; returns in words what was granted.

    Call before anything starts a thread: threads inherit the policy.
    """
    return f"{_fifo(config.fifo_priority)}, {_lock_memory() if config.lock_memory else 'memory not locked'}"


def freeze_collector() -> None:
    """Collect once, then never again; and let a busy thread of this interpreter give way within 0.1 ms.

    A stage that steps periodically makes no reference cycles, so nothing grows.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(1e-4)


def _fifo(priority: int) -> str:
    if priority == 0:
        return "SCHED_OTHER (configured)"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return f"SCHED_OTHER: SCHED_FIFO {priority} refused ({error.strerror}; needs rtprio or CAP_SYS_NICE)"
    return f"SCHED_FIFO {priority}"


def _lock_memory() -> str:
    libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        return f"memory not locked ({os.strerror(ctypes.get_errno())}; needs memlock or CAP_IPC_LOCK)"
    return "memory locked"


class RateKeeper:
    """Deadlines on a fixed grid. ``wait`` returns how late it woke; ticks that were missed whole are counted."""

    def __init__(self, period_ns: int, start_ns: int) -> None:
        self.period_ns = period_ns
        self.deadline_ns = start_ns
        self.missed = 0

    def wait(self) -> tuple[int, int]:
        """Sleep to the next deadline; (now_ns, lateness_ns)."""
        self.deadline_ns += self.period_ns
        behind_ns = time.monotonic_ns() - self.deadline_ns
        if behind_ns >= self.period_ns:
            missed = behind_ns // self.period_ns
            self.missed += missed
            self.deadline_ns += missed * self.period_ns
        ahead_ns = self.deadline_ns - time.monotonic_ns()
        if ahead_ns > 0:
            time.sleep(ahead_ns / 1e9)
        now_ns = time.monotonic_ns()
        return now_ns, now_ns - self.deadline_ns
