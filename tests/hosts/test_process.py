"""The bus host's parts: a step in the worker thread, and the rate keeper."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from syvla.config import RealtimeConfig
from syvla.hosts.process import ProcessHost, _Mailbox, _WorkerStep
from syvla.hosts.realtime import RateKeeper, go_realtime
from syvla.message import Message
from syvla.messages import OperatorCommand, Task, Thought
from syvla.protocols import Emit, Header, Inbox, OnNew, Received, Stage

LATENCY_NS = 300_000_000
INBOX = Inbox({}, ())


class Speaker:
    """Yields the words it was given; waits for ``go`` before the last one."""

    name = "planner"
    reads: tuple[str, ...] = ()
    writes = ("thought",)
    trigger = OnNew(())
    lossless = False
    stopped = True

    def __init__(self, *words: str) -> None:
        self.words = words
        self.go = threading.Event()
        self.error: Exception | None = None
        self.closed = False

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        for i, word in enumerate(self.words):
            if i == len(self.words) - 1:
                self.go.wait(5)
            thought = Thought(task_id=0, intent_id=0, observation_ns=now_ns, text=word, complete=False)
            try:
                yield Emit("thought", thought)
            except GeneratorExit:
                self.closed = True
                raise
        if self.error is not None:
            raise self.error

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


def words(emits: list[Emit]) -> list[str]:
    return [emit.message.text for emit in emits]  # type: ignore[attr-defined]


def settle(woken: threading.Event) -> None:
    assert woken.wait(5)
    woken.clear()


def test_without_latency_a_word_leaves_as_it_is_yielded() -> None:
    speaker, woken = Speaker("a", "b"), threading.Event()
    step = _WorkerStep(speaker, 0, woken.set)
    with ThreadPoolExecutor(1) as worker:
        step.start(worker, 0, INBOX)
        settle(woken)
        assert words(step.due(1)) == ["a"], "the first word left while the step still ran"
        assert not step.finish(1)
        speaker.go.set()
        while not step.finish(2):
            settle(woken)
            assert words(step.due(2)) in (["b"], [])
    assert not step.running


def test_with_a_latency_the_words_are_spread_over_it_and_the_step_lasts_as_long() -> None:
    speaker, woken = Speaker("a", "b", "c"), threading.Event()
    speaker.go.set()
    step = _WorkerStep(speaker, LATENCY_NS, woken.set)
    with ThreadPoolExecutor(1) as worker:
        step.start(worker, 0, INBOX)
        settle(woken)
        assert words(step.due(99_000_000)) == []
        assert step.next_due_ns(10**12) == 100_000_000
        assert words(step.due(200_000_000)) == ["a", "b"]
        assert not step.finish(299_000_000)
        assert words(step.due(300_000_000)) == ["c"]
        assert step.finish(300_000_000)


def test_a_step_that_yields_nothing_costs_no_latency() -> None:
    """A planner that met a stale observation did nothing, yet was kept busy for its whole 0.3 s: the intent aged."""
    woken = threading.Event()
    step = _WorkerStep(Speaker(), LATENCY_NS, woken.set)
    with ThreadPoolExecutor(1) as worker:
        step.start(worker, 0, INBOX)
        settle(woken)
        assert step.due(1) == []
        assert step.finish(1)


def test_a_preempted_step_ends_at_its_next_word_and_says_nothing_more() -> None:
    speaker, woken = Speaker("a", "b", "c"), threading.Event()
    step = _WorkerStep(speaker, 0, woken.set)
    with ThreadPoolExecutor(1) as worker:
        step.start(worker, 0, INBOX)
        settle(woken)
        step.preempt()
        assert step.due(1) == []
        assert not step.finish(1), "the stage is still at work"
        speaker.go.set()
        while not step.finish(2):
            settle(woken)
            assert step.due(2) == []
        assert speaker.closed, "the step saw its end"
        step.start(worker, 3, INBOX)
        said = []
        while not step.finish(4):
            settle(woken)
            said += words(step.due(4))
    assert said == ["a", "b", "c"], "the next step is whole"


def test_a_preempted_stand_in_latency_is_over_at_once() -> None:
    speaker, woken = Speaker("a", "b", "c"), threading.Event()
    speaker.go.set()
    step = _WorkerStep(speaker, LATENCY_NS, woken.set)
    with ThreadPoolExecutor(1) as worker:
        step.start(worker, 0, INBOX)
        settle(woken)
        assert words(step.due(100_000_000)) == ["a"]
        step.preempt()
        assert step.due(100_000_001) == []
        assert step.finish(100_000_001)


def test_an_error_of_the_stage_reaches_the_host() -> None:
    speaker, woken = Speaker(), threading.Event()
    speaker.error = ValueError("the model broke")
    step = _WorkerStep(speaker, 0, woken.set)
    with ThreadPoolExecutor(1) as worker:
        step.start(worker, 0, INBOX)
        settle(woken)
        with pytest.raises(ValueError, match="the model broke"):
            step.finish(1)


def test_a_hold_is_not_overtaken_by_the_resume_after_it() -> None:
    """Both came between two ticks, and of the newest of each topic only the resume was left."""

    def received(topic: str, message: Message, sequence: int) -> Received:
        return Received(Header(topic, 0, sequence, 0, 0), message, 0, tuple)

    def say(action: Literal["hold", "resume"], number: int) -> Received:
        return received("operator", OperatorCommand(command_id=number, issued_ns=0, action=action), number)

    def task(number: int) -> Received:
        return received("task", Task(task_id=number, instruction="", issued_ns=0), number)

    mailbox = _Mailbox(lossless=False)
    mailbox.put([say("hold", 1), task(1), say("resume", 2), task(2)])
    inbox = mailbox.take()
    assert [m.action for m in inbox.new("operator")] == ["hold", "resume"]  # type: ignore[attr-defined]
    assert [m.task_id for m in inbox.new("task")] == [2]  # type: ignore[attr-defined]
    assert list(mailbox.take().fresh) == []


def test_deadlines_stay_on_their_grid_and_missed_ticks_are_counted() -> None:
    start_ns = time.monotonic_ns()
    keeper = RateKeeper(5_000_000, start_ns)
    for _ in range(5):
        now_ns, lateness_ns = keeper.wait()
        assert (keeper.deadline_ns - start_ns) % 5_000_000 == 0
        assert now_ns - lateness_ns == keeper.deadline_ns
        assert lateness_ns >= 0
    missed = keeper.missed
    time.sleep(0.022)
    keeper.wait()
    assert keeper.missed >= missed + 3
    assert (keeper.deadline_ns - start_ns) % 5_000_000 == 0


def test_what_was_not_asked_for_is_said() -> None:
    assert go_realtime(RealtimeConfig(fifo_priority=0, lock_memory=False)) == (
        "SCHED_OTHER (configured), memory not locked"
    )


class _Busy:
    """An inlet to which a message comes every millisecond, and an outlet without readers."""

    received = refused = dropped = 0
    last_refusal = ""
    poll_ns = 100_000_000

    def __init__(self) -> None:
        self.read, self.write = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sockets = (self.read,)
        self.drains_ns: list[int] = []

    def drain(self) -> list[Received]:
        """Take everything in; the first time a task, which wakes the stage."""
        self.drains_ns.append(time.monotonic_ns())
        with contextlib.suppress(BlockingIOError):
            while self.read.recv(1, socket.MSG_DONTWAIT):
                pass
        if len(self.drains_ns) > 1:
            return []
        task = Task(task_id=1, instruction="go", issued_ns=0)
        return [Received(Header("task", 0, 0, 0, 0), task, 0, tuple)]

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        """Nobody listens."""

    def relay(self, received: Received) -> None:
        """Nobody listens."""

    def poll(self) -> None:
        """Nobody grants anything."""

    def close(self) -> None:
        """The sockets are closed by the test."""


class _Long:
    """One step of 0.3 s, then it stops its host."""

    name = "planner"
    reads: tuple[str, ...] = ("task",)
    writes = reads
    trigger = OnNew(("task",))
    lossless = stopped = False
    began_ns = ended_ns = 0

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        if self.stopped:
            return ()
        self.began_ns = time.monotonic_ns()
        time.sleep(0.3)
        self.ended_ns = time.monotonic_ns()
        os.kill(os.getpid(), signal.SIGTERM)
        return ()

    def request_stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        return


def serve(stage: Stage, bus: _Busy) -> None:
    """Serve ``stage`` to its end; signal handlers are put back, and the sockets closed."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    try:
        ProcessHost(stage, bus, bus, "SCHED_OTHER").run()
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        bus.read.close()
        bus.write.close()


def test_a_stage_that_is_busy_is_not_woken_by_every_message() -> None:
    """Six hundred messages a second came to a planner that was thinking, each of which cost it its interpreter."""
    bus, stage, over = _Busy(), _Long(), threading.Event()

    def flood() -> None:
        while not over.wait(0.001):
            with contextlib.suppress(BlockingIOError):
                bus.write.send(b"x", socket.MSG_DONTWAIT)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        serve(stage, bus)
    finally:
        over.set()
        flooding.join()
    during = [ns for ns in bus.drains_ns if stage.began_ns < ns < stage.ended_ns]
    assert 3 <= len(during) <= 16, "it looks every 20 ms, for a task that would preempt it"


class _Fresh(_Busy):
    """A task comes whenever the host looks, and not only once."""

    def drain(self) -> list[Received]:
        """A newer one each time."""
        self.drains_ns.clear()
        return super().drain()


class _Slow(_Long):
    """Says fifteen words in 150 ms, which a newer task ends after 60; at its fourth step it stops its host."""

    trigger = OnNew(("task",), outdated_by=("task",), patience_ns=60_000_000)

    def __init__(self) -> None:
        self.said: list[int] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        if self.stopped:
            return
        self.said.append(0)
        for _ in range(15):
            time.sleep(0.01)
            self.said[-1] += 1
            yield Emit("thought", Thought(task_id=0, intent_id=0, observation_ns=now_ns, text="", complete=False))
        if len(self.said) >= 4:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_step_is_outdated_after_its_time_and_the_next_one_goes_to_its_end() -> None:
    bus, stage = _Fresh(), _Slow()
    serve(stage, bus)
    assert stage.said[1::2] == [15, 15]
    assert all(2 <= words < 15 for words in stage.said[0::2])


class _Twice(_Long):
    """A step at every task, at most one in ten seconds, and at once when an operator says something; then it ends."""

    reads = writes = ("task", "operator")
    trigger = OnNew(("task", "operator"), 10_000_000_000, at_once=("operator",))

    def __init__(self) -> None:
        self.steps_ns: list[int] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        if not self.stopped:
            self.steps_ns.append(now_ns)
            if inbox.get("operator") is not None:
                os.kill(os.getpid(), signal.SIGTERM)
        return ()


class _Later(_Busy):
    """A task whenever the host looks, and from a fifth of a second on an operator's command."""

    def __init__(self) -> None:
        super().__init__()
        self.from_ns = time.monotonic_ns() + 200_000_000

    def drain(self) -> list[Received]:
        """A task, and whether there is more yet."""
        task = Task(task_id=1, instruction="go", issued_ns=0)
        found = [Received(Header("task", 0, 0, 0, 0), task, 0, tuple)]
        if time.monotonic_ns() >= self.from_ns:
            hold = OperatorCommand(command_id=0, action="hold", issued_ns=0)
            found.append(Received(Header("operator", 0, 0, 0, 0), hold, 0, tuple))
        return found


def test_what_starts_a_step_at_once_does_not_wait_for_the_period() -> None:
    bus, stage = _Later(), _Twice()
    serve(stage, bus)
    assert len(stage.steps_ns) == 2, "tasks alone wait for ten seconds"
    assert 0 <= stage.steps_ns[1] - bus.from_ns < 100_000_000
