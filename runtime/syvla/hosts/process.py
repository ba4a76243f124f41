"""The process host: one stage in one operating-system process, over ZeroMQ or whatever else its two ends are.

A periodic stage steps in this thread, on absolute deadlines, and shares its process with nothing busy. A stage
that messages wake steps in one worker thread, so that a long step (a model thinking) never stops the sockets
from being served; what it yields is sent as it comes.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

import zmq

from syvla.clock import to_ns
from syvla.hosts.health import HealthMeter
from syvla.hosts.pace import Pace
from syvla.hosts.preemption import Preemption
from syvla.hosts.realtime import RateKeeper, freeze_collector
from syvla.hosts.steps import StepLog
from syvla.protocols import Emit, Inbox, Incoming, Outgoing, Periodic, Received, Stage
from syvla.topics import TOPICS

_PR_SET_PDEATHSIG = 1
STOP_LIMIT_NS = 2_000_000_000
BUSY_POLL_NS = 20_000_000  # while no step can start: to wake at each of 600 messages a second costs its interpreter
AHEAD_POLL_NS = 5_000_000  # while one can start ahead of its turn
FAREWELL_S = 0.05  # the last messages leave before the sockets close


def stop_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGHUP when the parent dies, so that no process outlives its supervisor."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before we asked
        os.kill(os.getpid(), signal.SIGHUP)


class _Mailbox:
    """What has arrived for a stage: the latest of each topic, and what is new since the last step."""

    def __init__(self, lossless: bool) -> None:
        self.lossless = lossless
        self.latest: dict[str, Received] = {}
        self.fresh: list[Received] = []

    def put(self, messages: list[Received]) -> None:
        for received in messages:
            self.latest[received.header.topic] = received
        self.fresh.extend(messages)

    def news(self) -> set[str]:
        """The topics that have something new."""
        return {received.header.topic for received in self.fresh}

    def take(self) -> Inbox:
        fresh = self.fresh
        self.fresh = []
        if not self.lossless:
            newest = {received.header.topic: received for received in fresh}
            fresh = [r for r in fresh if r is newest[r.header.topic] or TOPICS[r.header.topic].every]
        return Inbox(dict(self.latest), fresh)


class ProcessHost:
    """Runs ``stage`` until SIGTERM, then lets it come to rest (the robot holds) within two seconds.

    SIGINT says that all processes are to end, SIGHUP that the supervisor is gone: the same, but ``linger_s`` later, so
    that the twin is still there and the recorder still listens while the robot comes to rest.
    """

    def __init__(
        self,
        stage: Stage,
        inlet: Incoming,
        outlet: Outgoing,
        realtime: str,
        latency_s: float = 0.0,
        frozen: bool = False,
        linger_s: float = 0.0,
    ) -> None:
        self.stage = stage
        self.latency_ns = to_ns(latency_s)
        self._frozen = frozen
        self._inlet = inlet
        self._outlet = outlet
        self._mailbox = _Mailbox(stage.lossless)
        self._linger_ns = to_ns(linger_s)
        self.signalled = False  # whether a signal asked for the end
        self._ending_ns: int | None = None
        self._stop_asked_ns: int | None = None
        self._stop_told = False  # whether the stage knows
        self._missed_ticks = 0
        self._meter = HealthMeter(stage.name, realtime)
        self._log = StepLog(stage)
        self._published: dict[str, int] = {}  # by topic: how many of its own messages

    def run(self) -> None:
        """Serve the stage to its end. Call from the main thread: signals are taken over here."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._obey(number))
        try:
            if isinstance(self.stage.trigger, Periodic):
                self._run_periodic(self.stage.trigger.period_ns)
            else:
                self._run_woken()
        finally:
            self._tell_stop()
            self.stage.close()
            farewell_ns = time.monotonic_ns() + to_ns(FAREWELL_S)
            while time.monotonic_ns() < farewell_ns:
                self._outlet.poll()
                time.sleep(0.005)
            self._inlet.close()
            self._outlet.close()

    # ------------------------------------------------------------ periodic

    def _run_periodic(self, period_ns: int) -> None:
        if self._frozen:
            freeze_collector()
        keeper = RateKeeper(period_ns, time.monotonic_ns())
        while not self._at_rest():
            now_ns, lateness_ns = keeper.wait()
            self._missed_ticks = keeper.missed
            self._mailbox.put(self._inlet.drain())
            self._outlet.poll()
            inbox = self._mailbox.take()
            self._log.begin(now_ns, inbox, self._tell_stop())
            for emit in self.stage.step(now_ns, inbox):
                self._publish(emit, time.monotonic_ns() - now_ns)
            self._meter.add_step(time.monotonic_ns() - now_ns, lateness_ns)
            self._tell_steps(now_ns)
            self._report_health(now_ns)
        self._tell_rest(under_way=False)

    # ------------------------------------------------------------ woken by messages

    def _run_woken(self) -> None:
        trigger = self.stage.trigger
        assert not isinstance(trigger, Periodic)  # noqa: S101 - narrows the type
        pace, preemption = Pace(trigger), Preemption(trigger)
        wake = os.eventfd(0, os.EFD_NONBLOCK)
        poller, quiet = zmq.Poller(), zmq.Poller()
        for socket in (*self._inlet.sockets, *self._outlet.sockets):
            poller.register(socket, zmq.POLLIN)
        for either in (poller, quiet):
            either.register(wake, zmq.POLLIN)
        step = _WorkerStep(self.stage, self.latency_ns, lambda: os.eventfd_write(wake, 1))
        with ThreadPoolExecutor(1, thread_name_prefix=self.stage.name) as worker:
            while not self._at_rest():
                now_ns = time.monotonic_ns()
                busy = step.running or now_ns < pace.turn_ns  # hardly anything that comes can start a step
                poll_ns = BUSY_POLL_NS if busy else self._inlet.poll_ns
                if busy and pace.goes_ahead and not step.running:
                    poll_ns = AHEAD_POLL_NS
                due_ns = step.next_due_ns(now_ns + poll_ns)
                if not step.running:
                    earliest_ns = pace.earliest_ns(self._mailbox.news())
                    if earliest_ns is not None or busy:
                        due_ns = min(due_ns, pace.turn_ns if earliest_ns is None else earliest_ns)
                waited = quiet if busy else poller
                waited.poll(max(0, -((now_ns - due_ns) // 1_000_000)))  # whole milliseconds, rounded up
                _drain_eventfd(wake)
                self._mailbox.put(self._inlet.drain())
                self._outlet.poll()
                now_ns = time.monotonic_ns()
                ran_ns = 0 if step.made else now_ns - step.started_ns  # what is made may as well be sent
                if step.running and preemption.ends(self._mailbox.news(), ran_ns):
                    step.preempt()
                for emit in step.due(now_ns):
                    self._publish(emit, now_ns - step.started_ns)
                if step.finish(now_ns):
                    pace.end(now_ns)
                    self._meter.add_step(now_ns - step.started_ns)
                    self._tell_steps(now_ns)
                stopping = self._stop_asked_ns is not None
                earliest_ns = pace.earliest_ns(self._mailbox.news())
                if not step.running and (stopping or (earliest_ns is not None and now_ns >= earliest_ns)):
                    pace.begin(now_ns)
                    inbox = self._mailbox.take()
                    self._log.begin(now_ns, inbox, self._tell_stop())
                    preemption.begin()
                    step.start(worker, now_ns, inbox)
                self._report_health(now_ns)
            self._tell_rest(under_way=step.running)
            if preemption.at_once:  # nobody waits for a long thought at the end
                step.preempt()
        os.close(wake)

    # ------------------------------------------------------------ both

    def _publish(self, emit: Emit, step_ns: int) -> None:
        if emit.origin is None:
            self._outlet.publish(emit.topic, emit.message, time.monotonic_ns(), step_ns)
            sequence = self._published.get(emit.topic, 0)
            self._published[emit.topic] = sequence + 1
            self._log.sent(emit.topic, sequence)
        else:
            self._outlet.relay(emit.origin)
            self._log.sent(emit.topic, 0, emit.origin.header)

    def _tell_steps(self, now_ns: int) -> None:
        """Between two steps: what went into the last ones, and what the stage now remembers."""
        if self._log.kept:
            for topic, message in zip(self._log.topics, (self._log.steps(), self._log.memory()), strict=True):
                if message is not None:
                    self._outlet.publish(topic, message, now_ns, 0)

    def _tell_rest(self, under_way: bool) -> None:
        """At the end: also the last steps, in which the arms came to rest."""
        steps = self._log.rest(under_way)
        if steps is not None:
            self._outlet.publish(self._log.topics[0], steps, time.monotonic_ns(), 0)

    def _report_health(self, now_ns: int) -> None:
        if self._meter.due(now_ns):
            health = self._meter.take(now_ns, self._inlet, self._outlet.dropped, self._missed_ticks)
            self._outlet.publish(f"health/{self.stage.name}", health, now_ns, 0)

    def _obey(self, number: int) -> None:
        self.signalled = True
        if number == signal.SIGTERM:
            self.request_stop()
        elif self._ending_ns is None:
            self._ending_ns = time.monotonic_ns()

    def request_stop(self) -> None:
        """Let the stage come to rest, then end. A signal may come in the middle of a step: the next one knows of it."""
        if self._stop_asked_ns is None:
            self._stop_asked_ns = time.monotonic_ns()

    def _tell_stop(self) -> bool:
        """Before a step: whether the stage is to come to rest, which it is told once."""
        asked = self._stop_asked_ns is not None
        if asked and not self._stop_told:
            self._stop_told = True
            self.stage.request_stop()
        return asked

    def _at_rest(self) -> bool:
        if self._ending_ns is not None and time.monotonic_ns() - self._ending_ns >= self._linger_ns:
            self.request_stop()
        asked_ns = self._stop_asked_ns
        return asked_ns is not None and (self.stage.stopped or time.monotonic_ns() - asked_ns > STOP_LIMIT_NS)


class _WorkerStep:
    """One step in the worker thread, and its messages on their way out.

    Without a latency each message leaves as it is yielded. With one, the stage's outputs are spread over it
    and the step counts as running until it has passed: a stand-in for a model's compute time. A preempted step is
    over at the next message it yields, or at once where only the stand-in was left.
    """

    def __init__(self, stage: Stage, latency_ns: int, wake: Callable[[], None]) -> None:
        self._stage = stage
        self._latency_ns = latency_ns
        self._wake = wake
        self._yielded: SimpleQueue[Emit] = SimpleQueue()
        self._pending: list[tuple[int, Emit]] = []
        self._future: Future[None] | None = None
        self._preempted = Event()
        self._spread = False  # whether the step has yielded anything: one that has not costs no latency
        self.started_ns = 0

    @property
    def running(self) -> bool:
        return self._future is not None

    @property
    def made(self) -> bool:
        """Whether all that it has to say is there, and no stand-in holds it back."""
        return self._future is not None and self._future.done() and self._latency_ns == 0

    def start(self, worker: ThreadPoolExecutor, now_ns: int, inbox: Inbox) -> None:
        self.started_ns = now_ns
        self._spread = False
        self._preempted.clear()
        self._future = worker.submit(self._work, now_ns, inbox)
        self._future.add_done_callback(lambda _: self._wake())

    def preempt(self) -> None:
        """End the step at the next message it yields; nothing more of it is sent."""
        self._preempted.set()

    def _work(self, now_ns: int, inbox: Inbox) -> None:
        emits = iter(self._stage.step(now_ns, inbox))
        for emit in emits:
            if self._preempted.is_set():
                if isinstance(emits, Generator):
                    emits.close()
                return
            self._yielded.put(emit)
            if self._latency_ns == 0:
                self._wake()

    def next_due_ns(self, otherwise_ns: int) -> int:
        """When something is to be done next, at the latest ``otherwise_ns``."""
        if self._pending:
            return min(self._pending[0][0], otherwise_ns)
        if self._future is not None and self._future.done():
            return min(self.started_ns + (self._latency_ns if self._spread else 0), otherwise_ns)
        return otherwise_ns

    def due(self, now_ns: int) -> list[Emit]:
        """The messages whose time has come."""
        done = self._future is not None and self._future.done()
        if self._preempted.is_set():
            self._drop()
            return []
        if self._latency_ns == 0 or done:
            fresh = [self._yielded.get() for _ in range(self._yielded.qsize())]
            n = len(fresh)
            self._spread = self._spread or n > 0
            self._pending += [(self.started_ns + self._latency_ns * i // n, e) for i, e in enumerate(fresh, 1)]
        due = [emit for at_ns, emit in self._pending if at_ns <= now_ns]
        self._pending = self._pending[len(due) :]
        return due

    def finish(self, now_ns: int) -> bool:
        """Whether the step is over just now; an error of the stage is raised here."""
        if self._future is None or not self._future.done() or self._pending or not self._yielded.empty():
            return False
        if self._spread and not self._preempted.is_set() and now_ns < self.started_ns + self._latency_ns:
            return False
        future, self._future = self._future, None
        future.result()
        return True

    def _drop(self) -> None:
        """Forget what the step has yielded and not sent."""
        self._pending.clear()
        while not self._yielded.empty():
            self._yielded.get()


def _drain_eventfd(fd: int) -> None:
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return
