"""Steps stages again exactly as they were stepped, from what a recording holds.

This is the fourth host of a stage. A recording begins in the middle of things: a stage is built from the run's
configuration and begins where the recording holds what it remembered. When each step is made and what is new to it is
as recorded, also where a stage that is repeated too now says something else: that then stands in the place of what it
said.
"""

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from syvla.errors import RecordingError
from syvla.hosts.memory import restore
from syvla.hosts.preemption import Preemption, said_before
from syvla.protocols import Emit, Header, Inbox, Received, Stage
from syvla.recording.stepped import Stepped
from syvla.transport.codec import encode_body

MOST_INSTEAD = 10_000
_DAMAGED = (AttributeError, TypeError, IndexError, KeyError, ValueError, ArithmeticError)


class Repeated(NamedTuple):
    """One step, made again, and what it sends, under the headers of what it sent."""

    step: Stepped
    sent: list[Received]

    @property
    def differences(self) -> list[str]:
        """In words: what is not as it was sent; empty: not a bit."""
        now, then = ([r.header.topic for r in side] for side in (self.sent, self.step.sent))
        if now != then:
            return [f"sends {', '.join(now) or 'nothing'} instead of {', '.join(then) or 'nothing'}"]
        pairs = zip(self.sent, self.step.sent, strict=True)
        return [f"sends another {a.header.topic}" for a, b in pairs if _bytes(a) != _bytes(b)]


class RepeatHost:
    """Repeats the ``steps`` of ``stage``.

    Args:
        stage: built as configured; it remembers nothing yet, or, with ``latest``, stands before the first step.
        steps: in order.
        before: told of each step before it is made, for devices to answer.
        anew: the stage's attributes that are not brought from the recording.
        latest: what it has read so far.
    """

    def __init__(
        self,
        stage: Stage,
        steps: Iterable[Stepped],
        before: Callable[[Stepped], None] | None = None,
        anew: Collection[str] = (),
        latest: Mapping[str, Received] | None = None,
    ) -> None:
        self.stage = stage
        self.latest = dict(latest or {})
        self.skipped = 0  # steps before the first that could be made
        self.gaps = 0  # steps behind it that the recording does not hold whole, up to the next memory
        self.instead: dict[Header, Received | None] = {}  # read in the place of what was, by its header; None: nothing
        self.extra: deque[Received] = deque()  # what nothing was recorded in place of, to be read when its time comes
        self._steps = iter(steps)
        self._before = before
        self._anew = anew
        self._ready = latest is not None
        self._begun = False
        self._stopping = False
        self._expected: tuple[int, int] | None = None  # epoch and number of the step that can be made now
        self._upcoming: Stepped | None = next(self._steps, None)
        self._following: Stepped | None = next(self._steps, None)
        self._seek()

    @property
    def next_ns(self) -> int | None:
        """The instant of the step that :meth:`repeat` makes; None: there is none any more."""
        return None if self._upcoming is None else self._upcoming.now_ns

    def run(self) -> Iterator[Repeated]:
        """Make every step that can be made, in order."""
        while self._upcoming is not None:
            yield self.repeat()

    def repeat(self) -> Repeated:
        """Make the next step."""
        step = self._upcoming
        assert step is not None  # noqa: S101 - ``next_ns`` said so
        read = (self.instead.pop(received.header, received) for received in step.fresh)
        fresh = [received for received in read if received is not None]
        while self.extra and self.extra[0].header.sent_ns <= step.now_ns:
            fresh.append(self.extra.popleft())
        self.latest.update({received.header.topic: received for received in fresh})
        if self._before is not None:
            self._before(step)
        if step.stopping and not self._stopping:
            self._stopping = True
            self.stage.request_stop()
        try:
            emits = self._emits(step, fresh)
        except _DAMAGED as error:  # a memory of the right form may still hold nonsense
            name = self.stage.name
            raise RecordingError(f"step {step.number} of the {name} cannot be repeated: {error!r}") from error
        repeated = Repeated(step, _headed(emits, step))
        self._begun = True
        self._expected = step.epoch, step.number + 1
        self._advance()
        self._seek()
        return repeated

    def _seek(self) -> None:
        """Go on to the next step that can be made."""
        while self._upcoming is not None:
            step = self._upcoming
            known = self._ready or self._expected == (step.epoch, step.number)
            if not known and step.memory is not None:
                restore(self.stage, step.memory.data, self._anew)
                self.latest = dict(step.memory.latest)
                known = True
            self._ready = False
            if known and not step.lacking:
                return
            self._expected = None
            if self._begun:
                self.gaps += 1
            else:
                self.skipped += 1
            self._advance()

    def _advance(self) -> None:
        self._upcoming, self._following = self._following, next(self._steps, None)

    def _emits(self, step: Stepped, fresh: Sequence[Received]) -> list[Emit]:
        """What it sends now; a step that was preempted had begun to say more than it sent, and is ended there."""
        produced = self.stage.step(step.now_ns, Inbox(dict(self.latest), fresh))
        preemption, following = Preemption(self.stage.trigger), self._following
        if following is None:
            cut = bool(preemption.at_once)
        else:
            news = {received.header.topic for received in following.fresh}
            cut = preemption.may_have_ended(news, following.now_ns - step.now_ns)
        return said_before(produced, len(step.sent)) if cut else list(produced)


def repeat_together(hosts: Sequence[RepeatHost]) -> Iterator[Repeated]:
    """Repeat the steps of several stages in the order of their instants, those of one instant in that of ``hosts``.

    Each reads what the others say now.
    """
    readers: dict[str, list[RepeatHost]] = {}
    for host in hosts:
        for topic in host.stage.reads:
            readers.setdefault(topic, []).append(host)
    while True:
        waiting = [(host.next_ns, place) for place, host in enumerate(hosts) if host.next_ns is not None]
        if not waiting:
            return
        repeated = hosts[min(waiting)[1]].repeat()
        said = {received.header for received in repeated.step.sent}
        for header in said - {received.header for received in repeated.sent}:
            for reader in readers.get(header.topic, ()):
                reader.instead[header] = None
        for received in repeated.sent:
            for reader in readers.get(received.header.topic, ()):
                if received.header in said:
                    reader.instead[received.header] = received
                    if len(reader.instead) > MOST_INSTEAD:  # of what was overtaken before it was read
                        del reader.instead[next(iter(reader.instead))]
                else:
                    reader.extra.append(received)
        yield repeated


def _headed(emits: Sequence[Emit], step: Stepped) -> list[Received]:
    """Messages under the headers of those that were sent: the first of a topic in place of the first, and so on.

    One that there was none in place of is sent at the end of the step.
    """
    headers = {topic: deque[Header]() for topic in {emit.topic for emit in emits}}
    for received in step.sent:
        if received.header.topic in headers:
            headers[received.header.topic].append(received.header)
    end_ns = step.sent[-1].header.sent_ns if step.sent else step.now_ns
    found = []
    for emit in emits:
        left = headers[emit.topic]
        header = left.popleft() if left else Header(emit.topic, step.epoch, -1, end_ns, 0)
        wire = functools.partial(encode_body, emit.message)
        found.append(Received(header, emit.message, header.sent_ns, wire))
    return found


def _bytes(received: Received) -> bytes:
    return b"".join(map(bytes, received.wire()))
