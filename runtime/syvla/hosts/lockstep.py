"""The lockstep host: every stage in one process under a virtual clock. Exact, repeatable, faster than real time.

Messages arrive the instant they are sent. A stage that is woken by messages may be given a latency: its step
sees the inbox of the moment it starts, it is busy for that long, and what it yields appears spread over that
time, the last message at its end, as on the bus host. A step that yields nothing costs nothing, and one that is
preempted ends there and then.
"""

import functools
import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from syvla.errors import ConfigError
from syvla.hosts.memory import capture, restore
from syvla.hosts.pace import Pace
from syvla.hosts.preemption import Preemption, said_before
from syvla.hosts.steps import StepLog
from syvla.message import Message
from syvla.protocols import Emit, Header, Inbox, OnNew, Periodic, Received, Stage
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
        "latency_ns",
        "latest",
        "log",
        "pace",
        "played",
        "preemption",
        "rank",
        "rewinding",
        "scheduled_ns",
        "sent",
        "stage",
        "started",
        "started_ns",
    )

    def __init__(self, stage: Stage, rank: int, latency_ns: int) -> None:
        self.stage = stage
        self.rank = rank
        self.latency_ns = latency_ns
        self.log = StepLog(stage)
        self.played: deque[tuple[int, Sequence[Received]]] = deque()  # to a paced stage, by instant
        self.latest: dict[str, Received] = {}
        self.fresh: list[Received] | dict[tuple[str, int], Received] = [] if stage.lossless else {}
        self.busy = False
        self.scheduled_ns: int | None = None  # when the next step is due
        self.started_ns = 0
        self.pace = Pace(stage.trigger)
        self.preemption = Preemption(stage.trigger)
        self.rewinding = bool(self.preemption.in_time) and self.log.kept  # it can be run again
        self.started: tuple[int, Inbox, bytes] | None = None  # the step under way, and what was remembered before it
        self.sent = 0  # of it

    def take(self) -> Inbox:
        """The inbox of the step that starts now."""
        fresh = self.fresh if isinstance(self.fresh, list) else list(self.fresh.values())
        self.fresh = [] if isinstance(self.fresh, list) else {}
        return Inbox(self.latest, fresh)

    def news(self) -> set[str]:
        """The topics that have something new."""
        fresh = self.fresh if isinstance(self.fresh, list) else self.fresh.values()
        return {received.header.topic for received in fresh}

    def begin(self, now_ns: int, inbox: Inbox) -> None:
        """A step begins."""
        self.started_ns = now_ns
        self.pace.begin(now_ns)
        self.preemption.begin()
        self.sent = 0
        self.started = (now_ns, Inbox(dict(inbox.latest), inbox.fresh), capture(self.stage)) if self.rewinding else None

    def rewind(self) -> None:
        """Leave the stage, which made its step in no time, as one that was ended on its way.

        It knew a thought that nobody ever heard the end of, and went on from that.
        """
        if self.started is not None:
            now_ns, inbox, remembered = self.started
            restore(self.stage, remembered)
            said_before(self.stage.step(now_ns, inbox), self.sent)

    def put(self, received: Received) -> None:
        """Let the next step see ``received``."""
        header = received.header
        self.latest[header.topic] = received
        if isinstance(self.fresh, list):
            self.fresh.append(received)
        else:
            self.fresh[header.topic, header.sequence if TOPICS[header.topic].every else 0] = received


class LockstepHost:
    """Runs ``stages`` in the order given; ``latency_s`` maps a stage's name to its compute time.

    A periodic stage that is ``paced`` steps when :meth:`tick` says so, and gets with it what is played to it.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        latency_s: Mapping[str, float] | None = None,
        start_ns: int = 0,
        paced: Collection[str] = (),
    ) -> None:
        latency_s = dict(latency_s or {})
        self._paced = paced
        self._stopping = False
        self.now_ns = start_ns
        self.latest: dict[str, Received] = {}
        self._heap: list[_Event] = []
        self._count = 0
        self._sequence: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
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
            if isinstance(seat.stage.trigger, Periodic) and seat.stage.name not in paced:
                self._push(start_ns, seat.rank, None)
        for seat in self._seats:
            seat.log.kept &= seat.log.topics[0] in self._readers  # nobody would ever take it away

    def inject(self, topic: str, message: Message) -> None:
        """Deliver a message from outside (the operator, a test) now."""
        self._deliver(Emit(topic, message), 0)

    def play(self, at_ns: int, stage: str, received: Received) -> None:
        """Deliver at ``at_ns`` what ``stage``, one of those here, once sent: in its place among what is due then.

        A paced stage gets it with the tick that got it.
        """
        self._push(at_ns, self._seat(stage).rank, Emit(received.header.topic, received.message, received))

    def tick(self, at_ns: int, stage: str, played: Sequence[Received] = ()) -> None:
        """Let a paced stage step at ``at_ns``, when it gets what was ``played``."""
        seat = self._seat(stage)
        if played:
            seat.played.append((at_ns, played))
        self._push(at_ns, seat.rank, None)

    def go_on(
        self,
        stage: str,
        latest: Mapping[str, Received],
        fresh: Iterable[Received],
        stepped_ns: Sequence[int],
        busy_until_ns: int = 0,
    ) -> None:
        """Before the first step: ``stage`` has stepped, at last at ``stepped_ns``, and seen ``latest``, not ``fresh``.

        What its last step, under way until ``busy_until_ns``, has yet to send is played.
        """
        seat = self._seat(stage)
        seat.latest.update(latest)
        for received in fresh:
            seat.put(received)
        for at_ns in stepped_ns:
            seat.started_ns = at_ns
            seat.pace.begin(at_ns)
        if busy_until_ns > self.now_ns:
            seat.busy = True
            self._free(seat, busy_until_ns)
        else:
            self._schedule(seat, seat.news())

    def number(self, topic: str, epoch: int, sequence: int) -> None:
        """Let the next message of ``topic`` have this number."""
        self._epochs[topic] = epoch
        self._sequence[topic] = sequence

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
                self._send(seat, event.emit, seat.latency_ns)
            elif event.order < 0:
                seat.busy = False
                seat.pace.end(self.now_ns)
                self._schedule(seat, seat.news())
            else:
                self._step(seat)
        self.now_ns = end_ns

    def stop(self, limit_ns: int = 2_000_000_000) -> None:
        """Ask every stage to stop, run on until they have (or ``limit_ns`` passed), and close them."""
        self._stopping = True
        for seat in self._seats:
            seat.stage.request_stop()
        end_ns = self.now_ns + limit_ns
        while self.now_ns < end_ns and not all(seat.stage.stopped for seat in self._seats):
            self.run_until(self.now_ns + 5_000_000)
        for seat in self._seats:
            seat.stage.close()

    # ------------------------------------------------------------ inside

    def _seat(self, stage: str) -> _Seat:
        return next(seat for seat in self._seats if seat.stage.name == stage)

    def _push(self, at_ns: int, rank: int, emit: Emit | None) -> None:
        self._count += 1
        heapq.heappush(self._heap, _Event(at_ns, rank, self._count, emit))

    def _schedule(self, seat: _Seat, news: Collection[str]) -> None:
        """Let it step for what is new of these topics, as soon as it may."""
        earliest_ns = None if seat.busy else seat.pace.earliest_ns(news)
        if earliest_ns is None:
            return
        at_ns = max(earliest_ns, self.now_ns)
        if seat.scheduled_ns is None or at_ns < seat.scheduled_ns:
            seat.scheduled_ns = at_ns
            self._push(at_ns, seat.rank, None)

    def _step(self, seat: _Seat) -> None:
        now_ns = self.now_ns
        trigger = seat.stage.trigger
        if isinstance(trigger, OnNew) and now_ns != seat.scheduled_ns:
            return  # it has stepped at once instead
        seat.scheduled_ns = None
        while seat.played and seat.played[0][0] <= now_ns:
            for received in seat.played.popleft()[1]:
                seat.put(received)
        inbox = seat.take()
        seat.log.begin(now_ns, inbox, self._stopping)
        seat.begin(now_ns, inbox)
        emits = seat.stage.step(now_ns, inbox)
        if isinstance(trigger, Periodic):
            for emit in emits:
                self._send(seat, emit, 0)
            self._tell_steps(seat)
            if seat.stage.name not in self._paced:
                self._push(now_ns + trigger.period_ns, seat.rank, None)
            return
        if seat.latency_ns == 0:
            for emit in emits:
                self._send(seat, emit, 0)
            self._tell_steps(seat)
            seat.pace.end(now_ns)
            return
        pending = list(emits)
        self._tell_steps(seat)
        if not pending:  # it found nothing to do, which costs nothing
            seat.pace.end(now_ns)
            return
        seat.busy = True
        for i, emit in enumerate(pending, 1):
            self._push(now_ns + seat.latency_ns * i // len(pending), seat.rank, emit)
        self._free(seat, now_ns + seat.latency_ns)

    def _free(self, seat: _Seat, at_ns: int) -> None:
        # a negative order sorts before this seat's last delivery of the same instant; it only frees the seat
        self._count += 1
        heapq.heappush(self._heap, _Event(at_ns, seat.rank, -self._count, None))

    def _send(self, seat: _Seat, emit: Emit, step_ns: int) -> None:
        seat.sent += 1
        header = self._deliver(emit, step_ns)
        if emit.origin is None:
            seat.log.sent(emit.topic, header.sequence)

    def _tell_steps(self, seat: _Seat) -> None:
        """To whoever reads it: what went into the last steps, and what the stage now remembers."""
        log = seat.log
        if log.kept:
            for topic, message in zip(log.topics, (log.steps(), log.memory()), strict=True):
                if message is not None:
                    self._deliver(Emit(topic, message), 0)

    def _deliver(self, emit: Emit, step_ns: int) -> Header:
        topic, message, received = emit
        played = received is not None
        if received is None:
            sequence = self._sequence.get(topic, 0)
            self._sequence[topic] = sequence + 1
            header = Header(topic, self._epochs.get(topic, 0), sequence, self.now_ns, step_ns)
            received = Received(header, message, self.now_ns, functools.partial(encode_body, message))
        self.latest[topic] = received
        for seat in self._readers.get(topic, ()):
            if played and seat.stage.name in self._paced:
                continue
            seat.put(received)
            if seat.busy and seat.preemption.ends((topic,), self.now_ns - seat.started_ns):
                self._preempt(seat)
            self._schedule(seat, (topic,))
        return received.header

    def _preempt(self, seat: _Seat) -> None:
        """The step under way is over: what it has not sent yet is dropped, and turns that it no longer waits for."""
        self._heap[:] = [event for event in self._heap if event.rank != seat.rank]
        heapq.heapify(self._heap)
        seat.busy = False
        seat.pace.end(self.now_ns)
        seat.rewind()
