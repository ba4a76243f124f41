"""One recorded episode in memory, as columns over time: what the summary, the plot and the captions are made from."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from syvla import messages as m
from syvla.clock import NS_PER_S, to_ns
from syvla.config import IntentPolicy, RunConfig
from syvla.message import Float64, Message
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, Recorded, Recording
from syvla.report.origins import Int64, newest_rows
from syvla.topics import TOPICS

_BULKY = frozenset(row.name for row in TOPICS.values() if row.type in (m.CameraFrame, m.SimState))
_UNREAD = Message()  # stands for a message of which only the stamps are kept
SILENT_NS = to_ns(TOPICS["safety"].stale_after_s or 0.0)  # after which a mode is nobody's word any more
STOPPED_MODES = (m.Mode.HOLD, m.Mode.SOFT_STOP, m.Mode.FAULT)


class Thinking(NamedTuple):
    """The slow system at work: from the observation it looked at until the intent was sent (or never was)."""

    intent_id: int
    observation_ns: int
    arrived_ns: int
    arrived: bool
    text: str
    cut_off: bool = False  # what is shown ends before it could arrive


class ChunkSpan(NamedTuple):
    """One action chunk; ``executed`` is the first and last row that was commanded, None if none was."""

    chunk_id: int
    intent_id: int
    observation_ns: int
    arrived_ns: int
    period_ns: int
    rows: int
    executed: tuple[int, int] | None


class ModeSpan(NamedTuple):
    """A stretch of one mode; reasons are those named first for each code."""

    mode: m.Mode
    start_ns: int
    end_ns: int
    reasons: tuple[m.Reason, ...]

    @property
    def cause(self) -> str:
        """The reasons' codes, readable."""
        return ", ".join(reason.code for reason in self.reasons)


class Intervention(NamedTuple):
    """A stretch in which a person had the arms, from the first command of an override to its last."""

    override_id: int
    start_ns: int
    end_ns: int


class Stamps(NamedTuple):
    """Of one topic: when each message was sent, its number, and the life of its sender."""

    sent_ns: Int64
    sequence: Int64
    epoch: Int64


class Commands(NamedTuple):
    """What was sent to the arms, N rows in the order of time."""

    at_ns: Int64
    position_rad: Float64  # (N, 12)
    gripper_m: Float64  # (N, 2)
    source: npt.NDArray[np.str_]
    chunk_id: Int64
    chunk_row: Int64
    override_id: Int64  # -1 where no person commands
    splice_id: Int64
    intent_id: Int64
    intent_observation_ns: Int64  # which tells apart intents of one number, -1 where there is none
    observation_ns: Int64  # what the chunk was made from, -1 where there is none
    intent_age_s: Float64  # -1 where no intent is behind the command
    limited: Int64


class Measured(NamedTuple):
    """What one arm measured, N rows in the order of time."""

    at_ns: Int64
    position_rad: Float64  # (N, 6)
    gripper_m: Float64  # (N,)


@dataclass(slots=True)
class Episode:
    """Everything but the images. ``start_ns`` to ``end_ns`` is what was recorded as the episode."""

    path: Path
    recording: Recording
    config: RunConfig | None
    start_ns: int
    end_ns: int
    stamps: dict[str, Stamps]
    commands: Commands
    measured: dict[str, Measured]
    thinking: list[Thinking]
    chunks: list[ChunkSpan]
    splices: list[m.Splice]
    modes: list[ModeSpan]
    thoughts: list[tuple[int, m.Thought]] = field(default_factory=list)  # (sent_ns, thought)
    tasks: list[m.Task] = field(default_factory=list)
    safety: list[m.SafetyState] = field(default_factory=list)
    health: list[m.Health] = field(default_factory=list)  # of the robot's process
    truth: list[m.SimTruth] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Length of the episode."""
        return (self.end_ns - self.start_ns) / NS_PER_S

    @property
    def instruction(self) -> str:
        """What was asked for last; an empty instruction only says that nothing is wanted any more."""
        asked = [task.instruction for task in self.tasks if task.instruction]
        return asked[-1] if asked else self.truth[-1].instruction if self.truth else ""

    @property
    def intent_policy(self) -> IntentPolicy:
        """What the run was configured with, the defaults if the recording does not say."""
        return IntentPolicy() if self.config is None else self.config.rig.intent

    @property
    def interventions(self) -> list[Intervention]:
        """When a person had the arms, one after the other."""
        by_person = self.commands.source == m.Source.TELEOP.value
        spans: dict[int, tuple[int, int]] = {}
        rows = zip(self.commands.override_id[by_person].tolist(), self.commands.at_ns[by_person].tolist(), strict=True)
        for number, at_ns in rows:
            spans[number] = spans.get(number, (at_ns,))[0], at_ns
        return [Intervention(number, start_ns, end_ns) for number, (start_ns, end_ns) in spans.items()]

    def thought_rows(self) -> Int64:
        """Which of ``thinking`` each command is of, (N,), -1: none. By its observation, by its number if need be."""
        commands = self.commands
        arrived = [(row, thought) for row, thought in enumerate(self.thinking) if thought.arrived]
        exact = {(thought.intent_id, thought.observation_ns): row for row, thought in arrived}
        keys = zip(commands.intent_id.tolist(), commands.intent_observation_ns.tolist(), strict=True)
        rows = np.array([exact.get(key, -1) for key in keys], np.int64)
        numbers = np.where(commands.intent_observation_ns < 0, commands.intent_id, -1)
        newest = newest_rows(((t.intent_id, t.arrived_ns) for _, t in arrived), numbers, commands.at_ns)
        places = np.array([row for row, _ in arrived] or [-1], np.int64)
        return np.where(newest >= 0, places[newest], rows)

    def chunk_rows(self) -> Int64:
        """Which of ``chunks`` each command is of, (N,); -1 of none."""
        return _chunk_rows(((chunk.chunk_id, chunk.arrived_ns) for chunk in self.chunks), self.commands)

    def splice_rows(self) -> Int64:
        """Which of ``splices`` put each command's chunk there, (N,); -1 none."""
        commands = self.commands
        return newest_rows(((s.splice_id, s.spliced_ns) for s in self.splices), commands.splice_id, commands.at_ns)

    def seconds(self, at_ns: Int64) -> Float64:
        """Instants as seconds since the start."""
        return (np.asarray(at_ns) - self.start_ns) / NS_PER_S

    def second(self, at_ns: int) -> float:
        """An instant as seconds since the start."""
        return (at_ns - self.start_ns) / NS_PER_S


def load(path: Path) -> Episode:
    """Read the recording at ``path``, without its images; RecordingError if it is none."""
    recording = Recording(path)
    return assembled(recording, recording.messages())


def assembled(recording: Recording, messages: Iterable[Recorded]) -> Episode:
    """As :func:`load`, of these ``messages`` instead of those in the recording."""
    found: dict[str, list[Recorded]] = {topic: [] for topic in TOPICS}
    first_ns, last_ns = -1, 0
    for recorded in messages:
        found[recorded.topic].append(recorded._replace(message=_UNREAD) if recorded.topic in _BULKY else recorded)
        first_ns = recorded.log_time_ns if first_ns < 0 else first_ns
        last_ns = max(last_ns, recorded.log_time_ns)
    first_ns = max(first_ns, 0)
    commands = _commands([r.message for r in found["command"]])
    thoughts = [(r.header.sent_ns, r.message) for r in found["thought"] if isinstance(r.message, m.Thought)]
    safety = [r.message for r in found["safety"] if isinstance(r.message, m.SafetyState)]
    return Episode(
        path=recording.path,
        recording=recording,
        config=known_configuration(recording),
        start_ns=first_ns,
        end_ns=last_ns,
        stamps={topic: _stamps(messages) for topic, messages in found.items() if messages},
        commands=commands,
        measured={arm: _measured([r.message for r in found[f"arm/{arm}"]]) for arm in m.ARMS},
        thinking=_thinking(found["intent"], thoughts, last_ns),
        chunks=_chunks(found["chunk"], commands),
        splices=[r.message for r in found["splice"] if isinstance(r.message, m.Splice)],
        modes=_modes(safety, last_ns),
        thoughts=thoughts,
        tasks=[r.message for r in found["task"] if isinstance(r.message, m.Task)],
        safety=safety,
        health=[r.message for r in found["health/robot"] if isinstance(r.message, m.Health)],
        truth=[r.message for r in found["sim/truth"] if isinstance(r.message, m.SimTruth)],
    )


def known_configuration(recording: Recording) -> RunConfig | None:
    """What the run was configured with, None if the recording does not say so that it is understood."""
    try:
        return msgspec.json.decode(recording.attachments[CONFIG_ATTACHMENT], type=RunConfig)
    except (KeyError, msgspec.MsgspecError):  # of another version: the figures do without
        return None


def _stamps(messages: list[Recorded]) -> Stamps:
    headers = [r.header for r in messages]
    columns = ([h.sent_ns for h in headers], [h.sequence for h in headers], [h.epoch for h in headers])
    return Stamps(*(np.array(column, np.int64) for column in columns))


def _commands(messages: list[Message]) -> Commands:
    rows = sorted((c for c in messages if isinstance(c, m.JointCommand)), key=lambda c: c.commanded_ns)
    return Commands(
        at_ns=np.array([c.commanded_ns for c in rows], np.int64),
        position_rad=np.array([c.position_rad for c in rows]).reshape(-1, m.BOTH_ARMS_JOINTS),
        gripper_m=np.array([c.gripper_width_m for c in rows]).reshape(-1, 2),
        source=np.array([c.provenance.source.value for c in rows], np.str_),
        chunk_id=np.array([c.provenance.chunk_id for c in rows], np.int64),
        chunk_row=np.array([c.provenance.chunk_row for c in rows], np.int64),
        override_id=np.array([c.provenance.override_id for c in rows], np.int64),
        splice_id=np.array([c.provenance.splice_id for c in rows], np.int64),
        intent_id=np.array([c.provenance.intent_id for c in rows], np.int64),
        intent_observation_ns=np.array([c.provenance.intent_observation_ns for c in rows], np.int64),
        observation_ns=np.array([c.provenance.observation_ns for c in rows], np.int64),
        intent_age_s=np.array([c.intent_age_s for c in rows], np.float64),
        limited=np.array([c.limited_joints for c in rows], np.int64),
    )


def _measured(messages: list[Message]) -> Measured:
    rows = sorted((s for s in messages if isinstance(s, m.ArmState)), key=lambda s: s.measured_ns)
    return Measured(
        at_ns=np.array([s.measured_ns for s in rows], np.int64),
        position_rad=np.array([s.position_rad for s in rows]).reshape(-1, m.ARM_JOINTS),
        gripper_m=np.array([s.gripper_width_m for s in rows], np.float64),
    )


def _thinking(intents: list[Recorded], thoughts: list[tuple[int, m.Thought]], end_ns: int) -> list[Thinking]:
    spans: dict[tuple[int, int], Thinking] = {}
    for _, thought in thoughts:  # a thought whose intent never came keeps the planner busy to the end
        key = thought.intent_id, thought.observation_ns
        spans[key] = Thinking(*key, end_ns, False, thought.text)
    for recorded in intents:
        intent = recorded.message
        if isinstance(intent, m.Intent):
            key = intent.intent_id, intent.observation_ns
            spans[key] = Thinking(*key, recorded.header.sent_ns, True, intent.chain_of_thought)
    return sorted(spans.values(), key=lambda span: span.observation_ns)


def _chunks(messages: list[Recorded], commands: Commands) -> list[ChunkSpan]:
    told = [(recorded, r) for recorded in messages if isinstance(r := recorded.message, m.ActionChunk)]
    rows = _chunk_rows(((chunk.chunk_id, recorded.header.sent_ns) for recorded, chunk in told), commands)
    executed: dict[int, tuple[int, int]] = {}
    for place, row in zip(rows.tolist(), commands.chunk_row.tolist(), strict=True):
        low, high = executed.get(place, (row, row))
        executed[place] = min(low, row), max(high, row)
    return [
        ChunkSpan(
            chunk.chunk_id,
            chunk.intent_id,
            chunk.observation_ns,
            recorded.header.sent_ns,
            chunk.period_ns,
            len(chunk.position_rad),
            executed.get(place),
        )
        for place, (recorded, chunk) in enumerate(told)
    ]


def _chunk_rows(came: Iterable[tuple[int, int]], commands: Commands) -> Int64:
    return newest_rows(came, commands.chunk_id, commands.at_ns)


def _modes(safety: list[m.SafetyState], end_ns: int) -> list[ModeSpan]:
    spans: list[ModeSpan] = []
    for state in safety:
        if spans and spans[-1].mode is state.mode:
            named = {reason.code: reason for reason in (*state.reasons, *spans[-1].reasons)}
            spans[-1] = spans[-1]._replace(end_ns=state.stamp_ns, reasons=tuple(named.values()))
        else:
            if spans:
                spans[-1] = spans[-1]._replace(end_ns=state.stamp_ns)
            spans.append(ModeSpan(state.mode, state.stamp_ns, state.stamp_ns, state.reasons))
    if spans:
        spans[-1] = spans[-1]._replace(end_ns=max(spans[-1].end_ns, end_ns))
    return spans
