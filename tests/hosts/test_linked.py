"""A process between this machine's bus and a link: what goes where."""

from collections.abc import Sequence
from typing import Any, cast

from syvla.hosts.linked import LinkedInlet, LinkedOutlet
from syvla.message import Message
from syvla.messages import Health, Task, Thought
from syvla.protocols import Header, Received
from syvla.transport.robot_end import RobotEnd

TASK = Task(task_id=1, instruction="x", issued_ns=0)
THOUGHT = Thought(task_id=1, intent_id=1, observation_ns=0, text="", complete=False)
HEALTH = Health(
    process="planner",
    stamp_ns=0,
    pid=1,
    realtime="",
    steps=0,
    step_p50_s=0,
    step_p99_s=0,
    step_max_s=0,
    lateness_p50_s=0,
    lateness_p99_s=0,
    lateness_max_s=0,
    received=0,
    refused=0,
    dropped=0,
    last_refusal="",
)


class Side:
    """One side of the process: remembers what it was given, and has one message."""

    poll_ns = 5
    dropped = 1

    def __init__(self, topic: str, message: Message) -> None:
        self.sockets: Sequence[Any] = (object(),)
        self.received = self.refused = 1
        self.last_refusal = self.trouble = ""
        self.connected = False
        self.calls: list[str] = []
        self.had = Received(Header(topic, 1, 2, 3, 4), message, 5, tuple)

    def drain(self) -> list[Received]:
        return [self.had]

    def publish(self, topic: str, message: Message, sent_ns: int, step_ns: int) -> None:
        self.calls.append(topic)

    def relay(self, received: Received) -> None:
        self.calls.append(f"relay {received.header.topic}")

    def poll(self) -> None:
        self.calls.append("poll")

    def close(self) -> None:
        self.calls.append("close")


def sides() -> tuple[Side, Side, LinkedInlet, LinkedOutlet]:
    local, link = Side("task", TASK), Side("thought", THOUGHT)
    end = cast(RobotEnd, link)
    return local, link, LinkedInlet(local, end), LinkedOutlet(local, end)


def test_what_the_planner_is_to_see_goes_up_and_its_answers_stay_here() -> None:
    local, link, inlet, outlet = sides()
    for topic in ("task", "observation", "observation/jpeg", "sim/truth"):
        outlet.publish(topic, TASK, 0, 0)
    assert link.calls == ["task", "observation", "observation/jpeg", "sim/truth"]
    assert local.calls == []
    outlet.relay(link.had)
    outlet.publish("thought", THOUGHT, 0, 0)
    assert local.calls == ["relay thought", "thought"]
    assert [received.message for received in inlet.drain()] == [TASK, THOUGHT]
    assert len(inlet.sockets) == 2


def test_the_planner_is_well_only_while_the_link_is() -> None:
    """A demo waits for the planner's health before it enables the arms."""
    local, link, inlet, outlet = sides()
    link.trouble = "nobody answers"
    outlet.publish("health/planner", HEALTH, 0, 0)
    assert local.calls == []
    assert inlet.last_refusal == "nobody answers"
    link.connected, link.trouble = True, ""
    outlet.publish("health/planner", HEALTH, 0, 0)
    assert local.calls == ["health/planner"]


def test_both_sides_are_served_counted_and_closed() -> None:
    local, link, inlet, outlet = sides()
    outlet.poll()
    inlet.close()
    outlet.close()
    assert local.calls == ["poll", "close", "close"]
    assert link.calls == ["poll", "close"]
    assert (inlet.received, inlet.refused, inlet.dropped, outlet.dropped, inlet.poll_ns) == (2, 2, 1, 1, 5)
