"""The lockstep host: every stage in one process under a virtual clock. Exact, repeatable, faster than real time.

Messages arrive the instant they are sent. A stage that is woken by messages may be given a latency: its step
sees the inbox of the moment it starts, it is busy for that long, and what it yields appears spread over that
time, the last message at its end, as on the bus host. A step that yields nothing costs nothing, and one that is
preempted ends there and then.
"""

import functools
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from syvla.errors import ConfigError
from syvla.message import Message
from syvla.protocols import Emit, Header, Inbox, Periodic, Received, Stage
from syvla.topics import TOPICS
from syvla.transport.codec import encode_body


class _Event(NamedTuple):
    """Something due at ``at_ns``; ties run in the order of ``rank`` (the stage's place), then of ``order``."""

    at_ns: int
    rank: int
    order: int
    emit: Emit | None  # a message to deliver, or None: the stage steps


class _Seat:
    """One stage with its inbox and its timing."""

    __slots__ = (
        "busy",
        "fresh",
        "last_step_ns",
        "latency_ns",
        "latest",
        "preempted_by",
        "rank",
        "scheduled",
        "stage",
        "wakes_on",
    )

    def __init__(self, stage: Stage, rank: int, latency_ns: int) -> None:
        self.stage = stage
        self.rank = rank
        self.latency_ns = latency_ns
        self.latest: dict[str, Received] = {}
        self.fresh: list[Received] | dict[tuple[str, int], Received] = [] if stage.lossless else {}
        self.busy = False
        self.scheduled = False
        self.last_step_ns: int | None = None
        trigger = stage.trigger
        self.wakes_on = frozenset() if isinstance(trigger, Periodic) else frozenset(trigger.topics)
        self.preempted_by = frozenset() if isinstance(trigger, Periodic) else frozenset(trigger.preempted_by)

    def take(self) -> Inbox:
        """The inbox of the step that starts now."""
        fresh = self.fresh if isinstance(self.fresh, list) else list(self.fresh.values())
        self.fresh = [] if isinstance(self.fresh, list) else {}
        return Inbox(self.latest, fresh)


class LockstepHost:
    """Runs ``stages`` in the order given; ``latency_s`` maps a stage's name to its compute time."""

    def __init__(
        self, stages: Sequence[Stage], latency_s: Mapping[str, float] | None = None, start_ns: int = 0
    ) -> None:
        latency_s = dict(latency_s or {})
        self.now_ns = start_ns
        self.latest: dict[str, Received] = {}
        self._heap: list[_Event] = []
        self._count = 0
        self._sequence: dict[str, int] = {}
        self._seats = [
            _Seat(stage, rank, round(latency_s.pop(stage.name, 0.0) * 1e9)) for rank, stage in enumerate(stages)
        ]
        if latency_s:
            names = ", ".join(stage.name for stage in stages)
            raise ConfigError(f"latency_s names {', '.join(latency_s)}; the stages are {names}")
        self._readers: dict[str, list[_Seat]] = {}
        for seat in self._seats:
            for topic in seat.stage.reads:
                self._readers.setdefault(topic, []).append(seat)
            if isinstance(seat.stage.trigger, Periodic):
                self._push(start_ns, seat.rank, None)

    def inject(self, topic: str, message: Message) -> None:
        """Deliver a message from outside (the operator, a test) now."""
        self._deliver(Emit(topic, message), 0)

    def message(self, topic: str) -> Message | None:
        """The newest message of ``topic``, whoever sent it."""
        received = self.latest.get(topic)
        return None if received is None else received.message

    def run_until(self, end_ns: int) -> None:
        """Run everything that is due before or at ``end_ns``."""
        heap = self._heap
        while heap and heap[0].at_ns <= end_ns:
            event = heapq.heappop(heap)
            self.now_ns = event.at_ns
            seat = self._seats[event.rank]
            if event.emit is not None:
                self._deliver(event.emit, seat.latency_ns)
            elif event.order < 0:
                seat.busy = False
                if any(topic in seat.wakes_on for topic in self._fresh_topics(seat)):
                    self._schedule(seat)
            else:
                self._step(seat)
        self.now_ns = end_ns

    def stop(self, limit_ns: int = 2_000_000_000) -> None:
        """Ask every stage to stop, run on until they have (or ``limit_ns`` passed), and close them."""
        for seat in self._seats:
            seat.stage.request_stop()
        end_ns = self.now_ns + limit_ns
        while self.now_ns < end_ns and not all(seat.stage.stopped for seat in self._seats):
            self.run_until(self.now_ns + 5_000_000)
        for seat in self._seats:
            seat.stage.close()

    # ------------------------------------------------------------ inside

    @staticmethod
    def _fresh_topics(seat: _Seat) -> Iterable[str]:
        fresh = seat.fresh
        return {received.header.topic for received in (fresh.values() if isinstance(fresh, dict) else fresh)}

    def _push(self, at_ns: int, rank: int, emit: Emit | None) -> None:
        self._count += 1
        heapq.heappush(self._heap, _Event(at_ns, rank, self._count, emit))

    def _schedule(self, seat: _Seat) -> None:
        if seat.busy or seat.scheduled or isinstance(seat.stage.trigger, Periodic):
            return
        at_ns = self.now_ns
        if seat.last_step_ns is not None:
            at_ns = max(at_ns, seat.last_step_ns + seat.stage.trigger.min_period_ns)
        seat.scheduled = True
        self._push(at_ns, seat.rank, None)

    def _step(self, seat: _Seat) -> None:
        now_ns = self.now_ns
        trigger = seat.stage.trigger
        seat.scheduled = False
        seat.last_step_ns = now_ns
        emits = seat.stage.step(now_ns, seat.take())
        if isinstance(trigger, Periodic):
            for emit in emits:
                self._deliver(emit, 0)
            self._push(now_ns + trigger.period_ns, seat.rank, None)
            return
        if seat.latency_ns == 0:
            for emit in emits:
                self._deliver(emit, 0)
            return
        pending = list(emits)
        if not pending:  # it found nothing to do, which costs nothing
            return
        seat.busy = True
        for i, emit in enumerate(pending, 1):
            self._push(now_ns + seat.latency_ns * i // len(pending), seat.rank, emit)
        # a negative order sorts before this seat's last delivery of the same instant; it only frees the seat
        self._count += 1
        heapq.heappush(self._heap, _Event(now_ns + seat.latency_ns, seat.rank, -self._count, None))

    def _deliver(self, emit: Emit, step_ns: int) -> None:
        topic, message = emit.topic, emit.message
        sequence = self._sequence.get(topic, 0)
        self._sequence[topic] = sequence + 1
        header = Header(topic, 0, sequence, self.now_ns, step_ns)
        received = Received(header, message, self.now_ns, functools.partial(encode_body, message))
        self.latest[topic] = received
        every = TOPICS[topic].every
        for seat in self._readers.get(topic, ()):
            seat.latest[topic] = received
            if isinstance(seat.fresh, list):
                seat.fresh.append(received)
            else:
                seat.fresh[topic, sequence if every else 0] = received
            if seat.busy and topic in seat.preempted_by:
                self._preempt(seat)
            if topic in seat.wakes_on:
                self._schedule(seat)

    def _preempt(self, seat: _Seat) -> None:
        """The step under way is over: what it has not sent yet is dropped."""
        self._heap[:] = [event for event in self._heap if event.rank != seat.rank]  # a busy seat has no others
        heapq.heapify(self._heap)
        seat.busy = False
