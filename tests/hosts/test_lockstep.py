"""The lockstep host: order, latencies and what an inbox holds, all exact."""

from collections.abc import Iterable

import pytest

from syvla.errors import ConfigError
from syvla.hosts.lockstep import LockstepHost
from syvla.messages import OperatorCommand, Task, Thought
from syvla.protocols import Emit, Inbox, OnNew, Periodic


def thought(text: str, complete: bool = False) -> Emit:
    return Emit("thought", Thought(task_id=1, intent_id=1, observation_ns=0, text=text, complete=complete))


class Ticker:
    """Sends a task with its tick's number, every 10 ms."""

    name = "ticker"
    reads: tuple[str, ...] = ()
    writes = ("task",)
    trigger = Periodic(10_000_000)
    lossless = False
    stopped = True

    def __init__(self) -> None:
        self.ticks = 0
        self.closed = False

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        self.ticks += 1
        return [Emit("task", Task(task_id=self.ticks, instruction="", issued_ns=now_ns))]

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        self.closed = True


class Thinker:
    """Thinks three thoughts about the newest task."""

    name = "thinker"
    writes = ("thought",)
    lossless = False
    stopped = True

    def __init__(self, min_period_ns: int = 0, preempted_by: tuple[str, ...] = (), at_once: bool = False) -> None:
        topics, ahead = (("task", "operator"), ("operator",)) if at_once else (("task",), ())
        self.trigger = OnNew(topics, min_period_ns, preempted_by, at_once=ahead)
        self.reads = topics
        self.starts: list[tuple[int, int]] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        task = inbox.get("task")
        assert isinstance(task, Task)
        assert len(list(inbox.new("task"))) <= 1, "latest wins: only the newest is fresh"
        self.starts.append((now_ns, task.task_id))
        for word in ("a", "b", "c"):
            yield thought(f"{task.task_id}{word}", word == "c")

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


class Witness:
    """Notes everything that arrives, and when."""

    name = "witness"
    reads = ("task", "thought")
    writes: tuple[str, ...] = ()
    trigger = OnNew(("task", "thought"))
    lossless = True
    stopped = True

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, object]] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        for received in inbox.fresh:
            message = received.message
            what = message.text if isinstance(message, Thought) else message.task_id  # type: ignore[attr-defined]
            self.seen.append((now_ns // 1_000_000, received.header.sequence, what))
        return ()

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


def test_a_latency_makes_a_stage_busy_and_spreads_its_outputs() -> None:
    thinker, witness = Thinker(), Witness()
    LockstepHost([Ticker(), thinker, witness], {"thinker": 0.03}).run_until(65_000_000)
    assert thinker.starts == [(0, 1), (30_000_000, 4), (60_000_000, 7)]
    thoughts = [(at, what) for at, _, what in witness.seen if isinstance(what, str)]
    assert thoughts == [(10, "1a"), (20, "1b"), (30, "1c"), (40, "4a"), (50, "4b"), (60, "4c")]


def test_a_newer_task_ends_the_thought_about_the_one_before() -> None:
    """A preempted step says nothing more, and the next begins at once; without preemption it was 30 ms later."""
    thinker, witness = Thinker(preempted_by=("task",)), Witness()
    host = LockstepHost([thinker, witness], {"thinker": 0.03})
    for number, at_ms in ((1, 0), (2, 25), (3, 100)):
        host.run_until(at_ms * 1_000_000)
        host.inject("task", Task(task_id=number, instruction="", issued_ns=0))
    host.run_until(200_000_000)
    assert thinker.starts == [(0, 1), (25_000_000, 2), (100_000_000, 3)]
    thoughts = [(at, what) for at, _, what in witness.seen if isinstance(what, str)]
    assert thoughts == [
        *[(10, "1a"), (20, "1b")],
        *[(35, "2a"), (45, "2b"), (55, "2c")],
        *[(110, "3a"), (120, "3b"), (130, "3c")],
    ]


def test_without_latency_messages_arrive_at_once_and_lossless_readers_miss_none() -> None:
    witness = Witness()
    LockstepHost([Ticker(), Thinker(), witness]).run_until(25_000_000)
    assert [(at, what) for at, _, what in witness.seen] == [
        *[(0, 1), (0, "1a"), (0, "1b"), (0, "1c")],
        *[(10, 2), (10, "2a"), (10, "2b"), (10, "2c")],
        *[(20, 3), (20, "3a"), (20, "3b"), (20, "3c")],
    ]
    assert [sequence for _, sequence, what in witness.seen if isinstance(what, int)] == [0, 1, 2]


def test_the_minimum_period_holds_and_the_newest_wins() -> None:
    thinker = Thinker(min_period_ns=25_000_000)
    LockstepHost([Ticker(), thinker]).run_until(80_000_000)
    assert thinker.starts == [(0, 1), (25_000_000, 3), (50_000_000, 6), (75_000_000, 8)]


@pytest.mark.parametrize("latency_s", [0.0, 0.002])
def test_what_starts_a_step_at_once_does_so_ahead_of_its_turn_but_not_always(latency_s: float) -> None:
    thinker = Thinker(min_period_ns=25_000_000, at_once=True)
    host = LockstepHost([Ticker(), thinker], latency_s={"thinker": latency_s})
    for ms in (33, 34, 41, 60, 90):
        host.run_until(ms * 1_000_000)
        host.inject("operator", OperatorCommand(command_id=ms, action="hold", issued_ns=host.now_ns))
    host.run_until(100_000_000)
    assert [at_ns // 1_000_000 for at_ns, _ in thinker.starts] == [0, 25, 33, 45, 60, 85, 90], "34 and 41 waited for 45"


def test_an_injected_message_is_delivered_and_stop_closes() -> None:
    ticker, witness = Ticker(), Witness()
    host = LockstepHost([ticker, witness], start_ns=7_000_000)
    host.inject("thought", thought("hello").message)
    host.run_until(8_000_000)
    assert (7, 0, "hello") in witness.seen
    host.stop()
    assert ticker.closed


def test_every_operator_command_reaches_a_stage_that_reads_the_latest() -> None:
    class Robot(Witness):
        name = "robot"
        reads = ("operator", "task")
        trigger = OnNew(("operator",))
        lossless = False

        def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
            self.seen += [(0, 0, r.message.action) for r in inbox.fresh if r.header.topic == "operator"]  # type: ignore[attr-defined]
            return ()

    robot = Robot()
    host = LockstepHost([robot])
    host.inject("operator", OperatorCommand(command_id=1, issued_ns=0, action="hold"))
    host.inject("operator", OperatorCommand(command_id=2, issued_ns=0, action="resume"))
    host.run_until(1)
    assert [what for _, _, what in robot.seen] == ["hold", "resume"]


def test_a_latency_for_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="planer; the stages are ticker"):
        LockstepHost([Ticker()], {"planer": 0.3})
