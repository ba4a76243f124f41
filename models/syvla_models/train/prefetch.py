"""Makes the next batches in one background thread while the model works on this one."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """``make(step)`` for step = first, first + 1, ..., up to ``depth`` ahead. A context manager: it owns a thread.

    ``make`` must depend on ``step`` alone, so that a resumed run gets the same batches. What it raises is raised from
    the iterator.
    """

    def __init__(self, make: Callable[[int], T], first: int, depth: int = 2) -> None:
        self._make, self._first = make, first
        self._ready: queue.Queue[T | BaseException] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def __enter__(self) -> "Prefetch[T]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may be waiting for room
            with suppress(queue.Empty):
                self._ready.get(timeout=0.05)
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self) -> None:
        step = self._first
        while not self._stop.is_set():
            try:
                item: T | BaseException = self._make(step)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that trains
                item = error
            self._ready.put(item)
            if isinstance(item, BaseException):
                return
            step += 1
