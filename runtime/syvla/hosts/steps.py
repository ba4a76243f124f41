"""The log of a stage's steps, kept by its host: what went into each and what came out, so that it can be run again."""

import logging

import numpy as np

from syvla.errors import SyvlaError
from syvla.hosts.memory import capture
from syvla.messages import StageMemory, Steps
from syvla.protocols import Header, Inbox, Received, Stage
from syvla.topics import REPLAYED, TOPICS
from syvla.transport.wire import MAX_FRAME

STEPS_NS = 250_000_000
MEMORY_NS = 1_000_000_000
OWN = -1  # in place of an epoch: the one of the log itself
_log = logging.getLogger(__name__)
_MOST_STEPS, _MOST_MESSAGES = 8_000, 60_000  # of one Steps message, which holds a little more


class StepLog:
    """Notes the steps of ``stage``; a host hands it every step, and sends what it has to say when that is due.

    The last step may still be under way, so that it is told of only once the next one has begun.
    """

    def __init__(self, stage: Stage) -> None:
        reads_recorded = all(TOPICS[topic].recorded for topic in stage.reads)
        self.kept = stage.name in REPLAYED and hasattr(stage, "remembered") and reads_recorded
        self.topics = f"steps/{stage.name}", f"memory/{stage.name}"
        self._stage = stage
        self._names: dict[str, int] = {}
        self._steps: list[list[int]] = []
        self._messages: list[tuple[int, int, int]] = []
        self._first = 0
        self._steps_ns: int | None = None
        self._memory_ns: int | None = None
        self._latest: dict[str, Received] = {}

    def begin(self, now_ns: int, inbox: Inbox, stopping: bool) -> None:
        """A step is about to be made; ``stopping``: the stage has been asked to stop."""
        if not self.kept:
            return
        fresh = inbox.fresh
        self._steps.append([now_ns, len(fresh), 0, int(stopping)])
        self._messages += [self._key(received.header) for received in fresh]
        self._latest = inbox.latest

    def sent(self, topic: str, sequence: int, header: Header | None = None) -> None:
        """The step under way sent its own message of ``topic``, or passed on one with another's ``header``."""
        if self.kept and self._steps:
            self._steps[-1][2] += 1
            self._messages.append((self._index(topic), OWN, sequence) if header is None else self._key(header))

    def steps(self) -> Steps | None:
        """What is to be told now of the steps that are over."""
        if len(self._steps) < 2:
            return None
        newest_ns = self._steps[-1][0]
        if self._steps_ns is None:
            self._steps_ns = newest_ns
        most = len(self._steps) > _MOST_STEPS or len(self._messages) >= _MOST_MESSAGES
        if newest_ns - self._steps_ns < STEPS_NS and not most:
            return None
        self._steps_ns = newest_ns
        return self.rest(under_way=True)

    def rest(self, under_way: bool) -> Steps | None:
        """What has not been told yet; of the last step only if it is not ``under_way`` any more."""
        over = len(self._steps) - int(under_way)
        if over < 1 or not self.kept:
            return None
        told, self._steps = self._steps[:over], self._steps[over:]
        count = sum(step[1] + step[2] for step in told)
        messages, self._messages = self._messages[:count], self._messages[count:]
        first, self._first = self._first, self._first + over
        try:
            return Steps(
                first_step=first,
                topics=tuple(self._names),
                steps=np.array(told, np.int64),
                messages=np.array(messages, np.int64).reshape(-1, 3),
            )
        except (OverflowError, SyvlaError) as error:  # what only explains the past must not end a stage that moves arms
            _log.error("the steps of %s cannot be recorded: %s", self._stage.name, error)
            self.kept = False
            return None

    def memory(self) -> StageMemory | None:
        """What the stage remembers, if that is to be told now; only between two steps."""
        if not self._steps:
            return None
        now_ns = self._steps[-1][0]
        if self._memory_ns is not None and now_ns - self._memory_ns < MEMORY_NS:
            return None
        self._memory_ns = now_ns
        try:
            data = capture(self._stage)
        except (OverflowError, TypeError, SyvlaError) as error:  # for the same reason
            _log.error("what %s remembers cannot be recorded: %s", self._stage.name, error)
            self.kept = False
            return None
        if len(data) > MAX_FRAME:
            _log.warning("%s remembers %d bytes, at most %d are recorded", self._stage.name, len(data), MAX_FRAME)
            return None
        latest = [self._key(received.header) for received in self._latest.values()]
        return StageMemory(
            next_step=self._first + len(self._steps),
            stamp_ns=now_ns,
            topics=tuple(self._names),
            latest=np.array(latest, np.int64).reshape(-1, 3),
            data=np.frombuffer(data, np.uint8),
        )

    def _key(self, header: Header) -> tuple[int, int, int]:
        return self._index(header.topic), header.epoch, header.sequence

    def _index(self, topic: str) -> int:
        return self._names.setdefault(topic, len(self._names))
