"""Is time as it should be: stamps that are missing, jump, run backwards or repeat, rates, numbers, senders."""

import statistics
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import NamedTuple

from syvla.check.finding import Finding, Severity, Span, Tally
from syvla.clock import NS_PER_S, to_ns, to_s
from syvla.config import RunConfig
from syvla.errors import RecordingError
from syvla.message import Message
from syvla.messages import Mode, SafetyState
from syvla.recording.mcap_read import Recorded, Recording
from syvla.topics import CAMERAS, OVERTAKEN, TOPICS

GAP_PERIODS = 3  # fewer are jitter; more cannot be told from motion by whoever interpolates
GAP_S = 0.05  # nor is less than that: a row of actions is due every 0.033 s
EDGE_S = 0.5  # how long after the episode's start the last device may begin, besides a gap
RATE_OFF = 0.1  # of the configured rate: a device that runs at another setting is off by a quarter at least
RATE_BROKEN = 0.3
SETTLED = 10  # regular messages, after which it is known how old a stamp is when it is sent
CLOCK_APART_S = 2.0  # nothing is under way so long: such a stamp was made by another clock, or in another unit
_MOST = 64  # lives of a sender that are told apart
RATED = 6000  # messages by which a recording's own rates are known
_STAMPS = ("exposure_ns", "measured_ns", "commanded_ns", "sampled_ns", "stamp_ns")
_SENSED = (*(f"camera/{camera}" for camera in CAMERAS), "arm/left", "arm/right")
_PERIODIC = (*_SENSED, "command")


class Expected(NamedTuple):
    """What the rig asks of one topic; ``hold_ns`` is the silence after which the rig itself would hold."""

    rate_hz: float
    configured: bool
    gap_ns: int
    hold_ns: int


def own_rates_hz(recording: Recording) -> dict[str, float]:
    """Of each topic that has a rate: one over the median of its periods, by the recording's first messages."""
    sent_ns: dict[str, list[int]] = {}
    try:
        for raw in islice(recording.records(_PERIODIC), RATED):
            sent_ns.setdefault(raw.topic, []).append(raw.sent_ns)
    except RecordingError:
        pass  # whoever reads it whole says so
    periods_ns = {topic: statistics.median(b - a for a, b in pairwise(at)) for topic, at in sent_ns.items() if at[1:]}
    return {topic: NS_PER_S / period_ns for topic, period_ns in periods_ns.items() if period_ns > 0}


def expected(topic: str, run: RunConfig | None, own_hz: float | None = None) -> Expected:
    """Of a topic that has a rate: ``own_hz`` where that is not the rig's, as in a recording that was converted."""
    hold_s, configured = 0.0, run is not None and own_hz is None
    rate_hz = own_hz or TOPICS[topic].rate_hz or 1.0
    if run is not None and topic.startswith("camera/"):
        rate_hz, hold_s = own_hz or run.rig.cameras.rate_hz, run.rig.cameras.silent_s
    elif run is not None:
        rate_hz = own_hz or run.rig.control.rate_hz
        hold_s = max(run.rig.safety.feedback_stale_s, run.rig.safety.missed_ticks_to_hold / run.rig.control.rate_hz)
    gap_s = max(GAP_PERIODS / rate_hz, GAP_S)
    return Expected(rate_hz, configured, to_ns(gap_s), to_ns(max(gap_s, hold_s)))


class _Stream:
    """One topic, by its stamps and numbers."""

    def __init__(self, topic: str, run: RunConfig | None, own_hz: float | None) -> None:
        self.expected = expected(topic, run, own_hz) if topic in _PERIODIC else None
        self.count = 0
        self.first_ns, self.last_ns = 0, 0  # on the recorder's clock
        self.number: tuple[int, int] | None = None  # epoch and sequence
        self.lost, self.again = Tally(), Tally()
        self.silent, self.jumped, self.backwards, self.repeated, self.apart = (Tally() for _ in range(5))
        self.steady_ns, self.steady = 0, 0  # of the gaps that are none
        self._stamp: tuple[int, int] | None = None  # the newest, and when it was sent
        self._before: tuple[int, int] | None = None  # those of the last that was right, after one that was not
        self._least_age_ns: int | None = None  # that a stamp had when it was sent

    def see(self, recorded: Recorded, stamp_ns: int | None) -> None:
        """Take in one message."""
        at_ns, header = recorded.log_time_ns, recorded.header
        self.first_ns = self.first_ns if self.count else at_ns
        self.last_ns = at_ns
        self.count += 1
        lost = 0
        if self.number is None or self.number[0] != header.epoch:
            self.pause()
        elif header.sequence == self.number[1] == 0:
            pass  # another node of ROS, which does not number
        elif header.sequence <= self.number[1]:
            self.again.add(at_ns)
            return
        else:
            lost = header.sequence - self.number[1] - 1
        self.number = (header.epoch, header.sequence)
        if lost:
            self.lost.add(at_ns, count=lost)
        if stamp_ns is not None:
            self._judge(at_ns, stamp_ns, header.sent_ns, lost)

    def pause(self) -> None:
        """What comes next follows nothing."""
        self._stamp = self._before = None

    def _judge(self, at_ns: int, stamp_ns: int, sent_ns: int, lost: int) -> None:
        age_ns = sent_ns - stamp_ns
        if abs(age_ns) > CLOCK_APART_S * NS_PER_S:
            self.apart.add(at_ns, to_s(abs(age_ns)))
        last, before = self._stamp, self._before
        self._stamp, self._before = (stamp_ns, sent_ns), None
        gap_ns = self.expected.gap_ns if self.expected else NS_PER_S
        if before is not None and abs((stamp_ns - before[0]) - (sent_ns - before[1])) <= gap_ns:
            return  # it was that one stamp only
        if last is None:
            return
        least_ns = self._least_age_ns
        step_ns = stamp_ns - last[0]
        if step_ns < 0:
            self.backwards.add(at_ns, to_s(-step_ns))
            self._before = last
        elif step_ns == 0:
            self.repeated.add(at_ns)
        elif step_ns <= gap_ns:
            self.steady_ns += step_ns
            self.steady += 1 + lost
            self._least_age_ns = age_ns if least_ns is None else min(least_ns, age_ns)
        elif least_ns is not None and self.steady >= SETTLED and age_ns < least_ns - gap_ns / 2:  # ahead of its time
            self.jumped.add(at_ns, to_s(least_ns - age_ns))
            self._before = last
        elif not lost:
            self.silent.add(at_ns, to_s(step_ns))


class StampsRule:
    """Every topic's stamps, and that each was sent by one process from beginning to end."""

    def __init__(self, run: RunConfig | None, own_hz: Mapping[str, float]) -> None:
        self._run, self._own_hz = run, own_hz
        self._streams: dict[str, _Stream] = {}
        self._epochs: dict[str, set[int]] = {}  # by topic
        self._lives: set[tuple[str, int]] = set()
        self._restarts: dict[str, Tally] = {}  # by the stage that writes it
        self._rivals: dict[str, Tally] = {}
        self._unnumbered = OVERTAKEN if run and run.remote_planner else ()

    def see(self, recorded: Recorded) -> None:
        """Take in one message."""
        topic, header, message = recorded.topic, recorded.header, recorded.message
        stream = self._streams.get(topic)
        if stream is None:
            stream = self._streams[topic] = _Stream(topic, self._run, self._own_hz.get(topic))
        if TOPICS[topic].of_one_process and stream.number is not None and stream.number[0] != header.epoch:
            known = self._epochs.setdefault(topic, {stream.number[0]})
            writer = TOPICS[topic].writer
            if header.epoch in known:
                self._rivals.setdefault(writer, Tally()).add(recorded.log_time_ns)
            elif len(known) < _MOST:
                known.add(header.epoch)
                if (writer, header.epoch) not in self._lives:  # it began anew once, not once on each of its topics
                    self._lives.add((writer, header.epoch))
                    self._restarts.setdefault(writer, Tally()).add(recorded.log_time_ns)
        stream.see(recorded, _stamp_ns(message))
        if isinstance(message, SafetyState) and message.mode is Mode.DISABLED and "command" in self._streams:
            self._streams["command"].pause()  # arms without torque are commanded nothing

    def findings(self, span: Span) -> Iterator[Finding]:
        """What is wrong with each topic, then with who sent them."""
        for topic, stream in self._streams.items():
            yield from self._numbers(topic, stream, span)
            yield from _stamps(topic, stream, span)
            if stream.expected is not None:
                yield from _rate(topic, stream, stream.expected)
                if topic in _SENSED:
                    yield from _edges(topic, stream, stream.expected, span)
        for writer, tally in self._restarts.items():
            if writer in self._rivals:
                continue
            yield from tally.told(
                span, Severity.WARNING, "sender.restarted", writer, "its process began anew in the episode",
                "see that process's log; leave the episode out if the arms were meant to move then",
            )  # fmt: skip
        for writer, tally in self._rivals.items():
            yield from tally.told(
                span, Severity.ERROR, "sender.several", writer, "two processes sent its messages in turn",
                "end the one that should not run, and record again",
            )  # fmt: skip

    def _numbers(self, topic: str, stream: _Stream, span: Span) -> Iterator[Finding]:
        if topic not in self._unnumbered:
            yield from stream.lost.told(
                span, Severity.ERROR, "messages.lost", topic,
                f"{stream.lost.count} messages that were sent are not recorded",
                "the recorder could not keep up: record to a faster disk, or fewer or smaller images",
            )  # fmt: skip
        yield from stream.again.told(
            span, Severity.ERROR, "messages.repeated", topic, "messages are recorded twice, or out of their order",
            "the file was put together wrongly: use the original",
        )  # fmt: skip


def _stamp_ns(message: Message) -> int | None:
    for field in _STAMPS:
        if field in message.__struct_fields__:
            stamp_ns: int = getattr(message, field)
            return stamp_ns
    return None


def _stamps(topic: str, stream: _Stream, span: Span) -> Iterator[Finding]:
    error = Severity.ERROR
    if stream.expected is not None:
        beyond = stream.silent.worst > to_s(stream.expected.hold_ns)
        yield from stream.silent.told(
            span, error if beyond else Severity.WARNING, "stamps.missing", topic,
            f"nothing came for up to {stream.silent.worst:.3f} s; one is due every {1 / stream.expected.rate_hz:.3f} s",
            "see what kept the device or its process: cable, USB bandwidth, a busy machine (syvla doctor)",
        )  # fmt: skip
    yield from stream.jumped.told(
        span, error, "stamps.jumped", topic, f"the stamp leapt ahead of its time, by up to {stream.jumped.worst:.3f} s",
        "the device's clock was set, or is mapped wrongly: record again",
    )  # fmt: skip
    yield from stream.backwards.told(
        span, error, "stamps.backwards", topic, f"the stamp went back, by up to {stream.backwards.worst:.3f} s",
        "messages were reordered or a clock was set back: record again",
    )  # fmt: skip
    yield from stream.repeated.told(
        span, error, "stamps.repeated", topic, "the same stamp as the message before",
        "the device gave the same reading twice: see its driver",
    )  # fmt: skip
    if 2 * stream.apart.count > stream.count and not (stream.jumped.count or stream.backwards.count):
        yield from stream.apart.told(
            span, error, "stamps.clock", topic, f"stamps are {stream.apart.worst:.3g} s off the clock of the sender",
            "stamps are monotonic nanoseconds of the robot's machine: see who made these",
        )  # fmt: skip


def _rate(topic: str, stream: _Stream, wanted: Expected) -> Iterator[Finding]:
    if not wanted.configured or stream.steady < GAP_PERIODS or stream.steady_ns <= 0:
        return
    rate_hz = stream.steady * NS_PER_S / stream.steady_ns
    off = abs(rate_hz / wanted.rate_hz - 1)
    if off > RATE_OFF:
        yield Finding(
            name="rate.off",
            severity=Severity.ERROR if off > RATE_BROKEN else Severity.WARNING,
            where=topic,
            seen=f"{rate_hz:.1f} Hz, where the rig is configured for {wanted.rate_hz:g} Hz",
            fix="set the device or the rig file to the other's rate; a camera may lack light or USB bandwidth",
            count=stream.count,
        )


def _edges(topic: str, stream: _Stream, wanted: Expected, span: Span) -> Iterator[Finding]:
    slack_ns = wanted.hold_ns + to_ns(EDGE_S)
    if stream.first_ns - span.start_ns > slack_ns:
        yield Finding(
            name="stamps.begin_late", severity=Severity.WARNING, where=topic, at_s=0.0,
            seen=f"its first message comes after {span.second(stream.first_ns):.2f} s",
            fix="start the episode when everything runs",
        )  # fmt: skip
    if span.end_ns - stream.last_ns > slack_ns:
        yield Finding(
            name="stamps.end_early", severity=Severity.ERROR, where=topic, at_s=span.second(stream.last_ns),
            seen=f"it says nothing more in the last {to_s(span.end_ns - stream.last_ns):.2f} s",
            fix="the device or its process died: see its log, and record again",
        )  # fmt: skip
