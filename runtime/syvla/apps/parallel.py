"""Independent pieces of work, several processes at a time, in order."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from syvla.errors import SyvlaError
from syvla.hosts.process import stop_with_parent

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """``work`` of each item, ``jobs`` at a time; neither the results nor their order depend on ``jobs``.

    Raises:
        SyvlaError: one of the processes died.
    """
    if jobs <= 1:
        yield from map(work, items)
        return
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(jobs, spawn, _begin, (os.getpid(),)))
        try:
            yield from pool.map(work, items)
        except BrokenProcessPool as error:
            raise SyvlaError("one of the processes died, perhaps for want of memory; try fewer jobs") from error


def _begin(parent_pid: int) -> None:
    """Leave interrupts to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and that is inherited
    stop_with_parent(parent_pid)
