"""The log of steps that a host keeps: whole, in order, a few times a second, of stages that can be run again."""

import logging

import numpy as np
import pytest

from syvla.hosts import steps
from syvla.hosts.lockstep import LockstepHost
from syvla.hosts.steps import OWN, StepLog
from syvla.messages import StageMemory, Steps, Task
from syvla.protocols import Emit, Header, Inbox, OnNew, Periodic, Received

MS = 1_000_000


class Robot:
    """Says a task in every other tick, and remembers how many ticks there were."""

    name = "robot"
    reads: tuple[str, ...] = ("operator",)
    writes: tuple[str, ...] = ("task",)
    trigger = Periodic(5 * MS)
    lossless = False
    stopped = True
    remembered: tuple[str, ...] = ("ticks",)

    def __init__(self) -> None:
        self.ticks = 0

    def step(self, now_ns: int, inbox: Inbox) -> list[Emit]:
        self.ticks += 1
        if self.ticks % 2:
            return []
        return [Emit("task", Task(task_id=self.ticks, instruction="", issued_ns=now_ns))]

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


class Listener:
    """Keeps all that it is told."""

    name = "recorder"
    reads = ("steps/robot", "memory/robot")
    writes: tuple[str, ...] = ()
    trigger = OnNew(reads)
    lossless = stopped = True

    def __init__(self) -> None:
        self.steps: list[Steps] = []
        self.memories: list[StageMemory] = []

    def step(self, now_ns: int, inbox: Inbox) -> tuple[Emit, ...]:
        for received in inbox.fresh:
            if isinstance(received.message, Steps):
                self.steps.append(received.message)
            elif isinstance(received.message, StageMemory):
                self.memories.append(received.message)
        return ()

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


def received(topic: str, sequence: int, epoch: int = 3) -> Received:
    return Received(Header(topic, epoch, sequence, 0, 0), Task(task_id=1, instruction="", issued_ns=0), 0, tuple)


def test_what_went_in_and_what_came_out_is_told_of_steps_that_are_over() -> None:
    log = StepLog(Robot())
    given = [received("operator", 7), received("operator", 8)]
    log.begin(0, Inbox({}, given), False)
    log.sent("task", 0)
    log.sent("chunk", 0, Header("chunk", 9, 44, 0, 0))
    assert log.steps() is None, "it may still be under way"
    log.begin(300 * MS, Inbox({}, [received("operator", 9)]), True)
    told = log.steps()
    assert told is None, "a quarter of a second is counted from the first look"
    log.begin(560 * MS, Inbox({}, []), True)
    told = log.steps()
    assert told is not None
    assert (told.first_step, told.topics) == (0, ("operator", "task", "chunk"))
    assert told.steps.tolist() == [[0, 2, 2, 0], [300 * MS, 1, 0, 1]]
    assert told.messages.tolist() == [[0, 3, 7], [0, 3, 8], [1, OWN, 0], [2, 9, 44], [0, 3, 9]]


def test_at_the_end_the_last_steps_are_told_too() -> None:
    log = StepLog(Robot())
    log.begin(0, Inbox({}, [received("operator", 7)]), False)
    log.begin(5 * MS, Inbox({}, []), True)
    log.sent("task", 0)
    assert log.steps() is None
    rest = log.rest(under_way=True)
    assert rest is not None
    assert rest.steps.tolist() == [[0, 1, 0, 0]], "the last one may yet say something"
    last = log.rest(under_way=False)
    assert last is not None
    assert (last.first_step, last.steps.tolist()) == (1, [[5 * MS, 0, 1, 1]])
    assert log.rest(under_way=False) is None


def test_a_number_that_no_log_can_hold_ends_the_log_and_not_the_stage(caplog: pytest.LogCaptureFixture) -> None:
    """Over ROS anybody may sign a message; a robot's process once ended for it, in the middle of a motion."""
    log = StepLog(Robot())
    log.begin(0, Inbox({}, [received("operator", 2**70)]), False)
    log.begin(300 * MS, Inbox({}, []), False)
    assert log.rest(under_way=True) is None
    assert not log.kept
    assert "the steps of robot cannot be recorded" in caplog.text
    log.begin(600 * MS, Inbox({}, []), False)
    assert log.rest(under_way=False) is None, "nothing of half a log"


def test_in_lockstep_every_step_is_told_of_once_and_the_memory_once_a_second() -> None:
    robot, listener = Robot(), Listener()
    host = LockstepHost([robot, listener])
    host.run_until(3_000 * MS)
    numbers = [told.first_step + k for told in listener.steps for k in range(len(told.steps))]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 500
    assert np.diff([row[0] for told in listener.steps for row in told.steps.tolist()]).tolist() == [5 * MS] * (
        len(numbers) - 1
    )
    sent = [row[2] for told in listener.steps for row in told.messages.tolist()]
    assert sent == list(range(len(sent))), "its own messages by their numbers"
    assert [memory.stamp_ns for memory in listener.memories] == [0, 1_000 * MS, 2_000 * MS, 3_000 * MS]
    assert [memory.next_step for memory in listener.memories] == [1, 201, 401, 601]


def test_nobody_who_reads_it_costs_nothing() -> None:
    host = LockstepHost([Robot()])
    host.run_until(1_000 * MS)
    (seat,) = host._seats
    assert not seat.log._steps


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("name", "cameras"), ("reads", ("observation",))],
    ids=["of no stage that is replayed", "of one whose inputs are not recorded"],
)
def test_what_could_not_be_run_again_is_not_logged(attribute: str, value: object) -> None:
    robot = Robot()
    assert StepLog(robot).kept
    setattr(robot, attribute, value)
    assert not StepLog(robot).kept


def test_a_memory_that_no_message_can_hold_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(steps, "MAX_FRAME", 10)
    log = StepLog(Robot())
    log.begin(0, Inbox({}, []), False)
    with caplog.at_level(logging.WARNING):
        assert log.memory() is None
    assert "robot remembers" in caplog.text
