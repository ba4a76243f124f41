"""What an episode says in words and numbers: the task, the two systems' work, and what the processes complained of."""

from collections.abc import Iterator

from syvla.check.finding import Finding, Severity, Span, Tally
from syvla.config import RunConfig
from syvla.messages import (
    ActionChunk,
    ArmState,
    CamerasState,
    Health,
    Intent,
    JointCommand,
    Source,
    Task,
)
from syvla.plain import plain
from syvla.recording.mcap_read import Recorded


class TaskRule:
    """The task's text, and that whoever had the arms was really there."""

    def __init__(self, run: RunConfig | None, converted: bool = False) -> None:
        self._converted = converted  # other formats do not hold what the two systems said
        self.instruction = ""  # the last that is one
        self._played = run is not None and run.playback != ""  # nobody thinks then
        self._tasks = 0
        self._strange = Tally()
        self._strange_text = ""  # the first
        self._intents = self._chunks = 0
        self._by_policy = False

    def see(self, recorded: Recorded) -> None:
        """Take in one message."""
        message = recorded.message
        if isinstance(message, Task):
            self._tasks += 1
            if any(letter.isalpha() for letter in message.instruction):
                self.instruction = message.instruction
            if not message.instruction.isprintable() or message.instruction != message.instruction.strip():
                self._strange_text = self._strange_text if self._strange.count else message.instruction
                self._strange.add(recorded.log_time_ns)
        elif isinstance(message, Intent):
            self._intents += 1
        elif isinstance(message, ActionChunk):
            self._chunks += 1
        elif isinstance(message, JointCommand):
            self._by_policy |= message.provenance.source is Source.POLICY

    def findings(self, span: Span) -> Iterator[Finding]:
        """What is wrong; an empty task at the end only says that nothing is wanted any more."""
        error = Severity.ERROR
        if not self.instruction:
            yield Finding(
                name="task.empty" if self._tasks else "task.missing", severity=error, where="task",
                seen="the task's text is empty" if self._tasks else "no task was given",
                fix="give the task in words before the episode starts",
            )  # fmt: skip
        yield from self._strange.told(
            span, Severity.WARNING, "task.text", "task",
            f"the text has blanks at its ends, or what cannot be printed: {plain(repr(self._strange_text))}",
            "mend what enters the task",
        )  # fmt: skip
        if self._by_policy and not self._converted:
            if self._intents == 0 and not self._played:
                yield Finding(
                    name="intent.none", severity=error, where="intent", seen="the planner wanted nothing",
                    fix="see whether the planner ran and was given cameras and a task",
                )  # fmt: skip
            if self._chunks == 0:
                yield Finding(
                    name="chunk.none", severity=error, where="chunk", seen="the expert sent no actions",
                    fix="see whether the expert ran",
                )  # fmt: skip


class ToldRule:
    """What devices and processes said was wrong with them."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], Tally] = {}
        self._cameras: dict[tuple[str, str], Tally] = {}
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}  # stage and what: its pid, and the last count
        self._counts: dict[tuple[str, str], Tally] = {}

    def see(self, recorded: Recorded) -> None:
        """Take in one message."""
        message, at_ns = recorded.message, recorded.log_time_ns
        if isinstance(message, ArmState):
            for fault in message.faults:
                _tally(self._faults, f"arm/{message.arm}", plain(fault), at_ns)
        elif isinstance(message, CamerasState):
            for told in message.faults:
                _tally(self._cameras, told.camera, told.what, at_ns, told.for_s)
        elif isinstance(message, Health):
            for what, count in (("dropped", message.dropped), ("refused", message.refused)):
                key = (recorded.topic.removeprefix("health/"), what)
                pid, before = self._counted.get(key, (message.pid, count))  # it counts since its process started
                more = count - (before if pid == message.pid else 0)
                if more > 0:
                    self._counts.setdefault(key, Tally()).add(at_ns, count=more)
                self._counted[key] = (message.pid, count)

    def findings(self, span: Span) -> Iterator[Finding]:
        """What they said."""
        for (where, fault), tally in self._faults.items():
            yield from tally.told(
                span, Severity.ERROR, "arm.fault", where, f"the arm reported {fault}",
                "see to the arm before recording on",
            )  # fmt: skip
        for (camera, what), tally in self._cameras.items():
            yield from tally.told(
                span, Severity.WARNING, f"camera.told_{what}", camera,
                f"the cameras' process said it was {what}, for up to {tally.worst:.2f} s",
                "see its cable and USB port; the arms held meanwhile",
            )  # fmt: skip
        for (process, what), tally in self._counts.items():
            yield from tally.told(
                span, Severity.WARNING, f"messages.{what}", process, f"its process {what} messages",
                "the machine is too busy for it" if what == "dropped" else "see its log for what they were",
            )  # fmt: skip


_MOST = 64  # different faults that are told apart


def _tally(tallies: dict[tuple[str, str], Tally], where: str, what: str, at_ns: int, amount: float = 0.0) -> None:
    key = (where, what) if (where, what) in tallies or len(tallies) < _MOST else (where, "more faults")
    tallies.setdefault(key, Tally()).add(at_ns, amount)
