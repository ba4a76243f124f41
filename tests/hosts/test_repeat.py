"""The repeat host: stages step as they were stepped; what they send otherwise is said, and read by the others."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from syvla.errors import RecordingError
from syvla.hosts.memory import capture
from syvla.hosts.repeat import RepeatHost, repeat_together
from syvla.message import Message
from syvla.messages import Task, Thought
from syvla.protocols import Emit, Header, Inbox, OnNew, Received
from syvla.recording.stepped import Memory, Stepped
from syvla.transport.codec import encode_body

EPOCH = 5


class Counter:
    """Counts the tasks that it has read, and says how many and which was the newest."""

    name = "planner"
    reads: tuple[str, ...] = ("task",)
    writes: tuple[str, ...] = ("thought",)
    lossless = False
    stopped = True
    remembered = ("count",)

    def __init__(self, words: str = "", preempted_by: tuple[str, ...] = ()) -> None:
        self.trigger = OnNew(("task",), preempted_by=preempted_by)
        self.count = 0
        self.words = words

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        self.count += len(inbox.fresh)
        task = inbox.get("task")
        assert isinstance(task, Task)
        for part in ("so far", "done"):
            yield Emit("thought", thought(f"{self.count} {task.instruction}{self.words} {part}"))

    def request_stop(self) -> None:
        return

    def close(self) -> None:
        return


class Asker(Counter):
    """Gives a task for each thought that it has read."""

    name = "console"
    reads = ("thought",)
    writes = ("task",)

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        for received in inbox.fresh:
            assert isinstance(received.message, Thought)
            yield Emit("task", task(f"[{received.message.text}]"))


def thought(text: str) -> Thought:
    return Thought(task_id=1, intent_id=1, observation_ns=0, text=text, complete=False)


def task(instruction: str) -> Task:
    return Task(task_id=1, instruction=instruction, issued_ns=0)


def received(topic: str, sequence: int, message: Message, sent_ns: int = 0) -> Received:
    wire = functools.partial(encode_body, message)
    return Received(Header(topic, EPOCH, sequence, sent_ns, 0), message, sent_ns, wire)


def stepped(number: int, fresh: Sequence[Received], sent: Sequence[Received], **more: Any) -> Stepped:
    return Stepped(number, EPOCH, 1_000 * number, more.get("memory"), list(fresh), list(sent), more.get("lacking", []))


def words(messages: Sequence[Received]) -> list[str]:
    found = [each.message for each in messages]
    return [each.text if isinstance(each, Thought) else each.instruction for each in found]  # type: ignore[attr-defined]


def asked(number: int) -> Received:
    return received("task", number, task(f"task {number}"))


def said(number: int, *texts: str) -> list[Received]:
    return [received("thought", 2 * number + k, thought(text), 1_000 * number + k) for k, text in enumerate(texts)]


def episode(first: int = 3, last: int = 8, remembered_at: Iterable[int] = (4,)) -> list[Stepped]:
    """What a counter that had read two tasks before did with one more in each step."""
    steps = []
    for number in range(first, last):
        before = Counter()
        before.count = number
        memory = Memory(memoryview(capture(before)), {}) if number in remembered_at else None
        texts = (f"{number + 1} task {number} so far", f"{number + 1} task {number} done")
        steps.append(stepped(number, [asked(number)], said(number, *texts), memory=memory))
    return steps


def test_it_begins_where_the_memory_is_and_sends_what_was_sent() -> None:
    host = RepeatHost(Counter(), episode())
    repeated = list(host.run())
    assert [each.step.number for each in repeated] == [4, 5, 6, 7]
    assert [each.differences for each in repeated] == [[]] * 4
    assert host.skipped == 1


def test_what_it_sends_otherwise_is_said() -> None:
    repeated = list(RepeatHost(Counter(words="!"), episode()).run())
    assert [each.differences for each in repeated] == [["sends another thought"] * 2] * 4


def test_a_message_more_or_less_is_said() -> None:
    steps = episode()
    less, more = steps[2], steps[3]
    steps[2] = less._replace(sent=less.sent[:1])
    steps[3] = more._replace(sent=[*more.sent, *said(99, "and more")])
    repeated = list(RepeatHost(Counter(), steps).run())
    assert repeated[1].differences == ["sends thought, thought instead of thought"]
    assert repeated[2].differences == ["sends thought, thought instead of thought, thought, thought"]


def test_a_step_that_was_preempted_is_ended_there_and_no_other() -> None:
    steps = episode()
    steps[2] = steps[2]._replace(sent=steps[2].sent[:1])
    repeated = list(RepeatHost(Counter(preempted_by=("task",)), steps).run())
    assert [each.differences for each in repeated] == [[]] * 4, "a task is fresh in the step after it"
    steps[3] = steps[3]._replace(fresh=[])
    repeated = list(RepeatHost(Counter(preempted_by=("task",)), steps).run())
    assert repeated[1].differences == ["sends thought, thought instead of thought"]


def test_after_a_step_that_is_not_recorded_whole_it_waits_for_the_next_memory() -> None:
    steps = episode(last=10, remembered_at=(4, 8))
    steps[2] = steps[2]._replace(lacking=["task 5"])
    host = RepeatHost(Counter(), steps)
    assert [each.step.number for each in host.run()] == [4, 8, 9]
    assert (host.skipped, host.gaps) == (1, 3)


def test_a_restart_is_another_life() -> None:
    again = [each._replace(epoch=EPOCH + 1) for each in episode(0, 3, remembered_at=(1,))]
    host = RepeatHost(Counter(), [*episode(last=5), *again])
    assert [(each.step.epoch, each.step.number) for each in host.run()] == [(5, 4), (6, 1), (6, 2)]


def test_what_a_damaged_memory_leads_to_is_one_error() -> None:
    (step,) = episode(4, 5)
    nonsense = Counter()
    nonsense.count = None  # type: ignore[assignment]
    step = step._replace(memory=Memory(memoryview(capture(nonsense)), {}))
    with pytest.raises(RecordingError, match="step 4 of the planner cannot be repeated: TypeError"):
        list(RepeatHost(Counter(), [step]).run())


def test_together_each_reads_what_the_other_says_now() -> None:
    first = RepeatHost(Counter(words="!"), episode(4, 5))
    thoughts = said(4, "5 task 4 so far", "5 task 4 done")
    memory = Memory(memoryview(capture(Asker())), {})
    tasks = [received("task", 10 + k, task(f"[{text}]")) for k, text in enumerate(words(thoughts))]
    second = RepeatHost(Asker(), [stepped(6, thoughts, tasks, memory=memory)])
    repeated = list(repeat_together([second, first]))
    assert [each.step.number for each in repeated] == [4, 6], "in the order of their instants"
    assert words(repeated[1].sent) == ["[5 task 4! so far]", "[5 task 4! done]"]
    assert [each.header for each in repeated[1].sent] == [each.header for each in tasks]


def test_what_nothing_was_said_in_place_of_is_read_when_its_time_comes() -> None:
    (step,) = episode(4, 5)
    first = RepeatHost(Counter(), [step._replace(sent=[])])
    memory = Memory(memoryview(capture(Asker())), {})
    second = RepeatHost(Asker(), [stepped(3, [], [], memory=memory), stepped(4, [], []), stepped(5, [], [])])
    texts = [words(repeated.sent) for repeated in repeat_together([first, second])]
    assert texts[2] == ["[5 task 4 so far]", "[5 task 4 done]"]


def test_what_is_not_said_any_more_is_not_read_any_more() -> None:
    """A chunk that another policy would not have made was executed all the same."""
    (step,) = episode(4, 5)
    first = RepeatHost(Silent(), [step])
    memory = Memory(memoryview(capture(Asker())), {})
    second = RepeatHost(Asker(), [stepped(6, step.sent, [], memory=memory)])
    assert [words(repeated.sent) for repeated in repeat_together([first, second])] == [[], []]


class Silent(Counter):
    """Says nothing."""

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        return iter(())


Silent.__name__ = "Counter"  # it remembers what the counter did


def test_devices_are_told_before_each_step() -> None:
    told: list[int] = []
    host = RepeatHost(Counter(), episode(), lambda step: told.append(step.number))
    for repeated in host.run():
        assert told[-1] == repeated.step.number
    assert told == [4, 5, 6, 7]
